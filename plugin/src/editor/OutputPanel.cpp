// SPDX-License-Identifier: AGPL-3.0-or-later
#include "OutputPanel.h"

namespace demon
{
RenderChip::RenderChip(const juce::String& name) : Button(name)
{
    named(*this, name, "Drag the last render into the project as a WAV, or press to show the file");
}

void RenderChip::show(const RenderView& view)
{
    const bool hasChanged = view.last != shown.last || view.text != shown.text || view.isStale != shown.isStale;
    shown = view;
    setEnabled(view.last.existsAsFile());
    setDescription(view.text);
    if (hasChanged)
        repaint();
}

void RenderChip::clicked()
{
    if (!isDragging && shown.last.existsAsFile())
        shown.last.revealToUser();
    isDragging = false;
}

void RenderChip::mouseDrag(const juce::MouseEvent& event)
{
    if (isDragging || event.getDistanceFromDragStart() < 8 || !shown.last.existsAsFile())
        return;
    isDragging = true;
    juce::DragAndDropContainer::performExternalDragDropOfFiles({shown.last.getFullPathName()}, false, this);
}

void RenderChip::paintButton(juce::Graphics& graphics, bool over, bool)
{
    const Palette& p = paletteOf(*this);
    const float alpha = isEnabled() ? 1.0f : 0.5f;
    graphics.setColour((over ? p.raised.contrasting(0.06f) : p.raised).withMultipliedAlpha(alpha));
    graphics.fillRoundedRectangle(getLocalBounds().toFloat(), metrics::corner);
    auto area = getLocalBounds().reduced(8, 0);
    juce::Path path = iconPath(Icon::drag);
    const auto icon = area.removeFromLeft(14).toFloat().withSizeKeepingCentre(14.0f, 14.0f);
    path.applyTransform(juce::AffineTransform::scale(14.0f).translated(icon.getX(), icon.getY()));
    const juce::Colour colour = shown.isStale ? p.stale : isEnabled() ? p.text : p.dimText;
    graphics.setColour(colour);
    graphics.strokePath(path, juce::PathStrokeType(1.3f));
    graphics.setFont(uiFont(metrics::smallSize));
    graphics.drawFittedText(shown.text.isEmpty() ? "No render yet" : shown.text, area.withTrimmedLeft(7),
                            juce::Justification::centredLeft, 1, 0.8f);
}

OutputPanel::OutputPanel(Editing& editing, OutputModel* outputModel, RenderModel* renderModel)
    : Panel("Output"), output(outputModel), render(renderModel), mix(editing, lane::mix, 62),
      gain(editing, lane::output_gain, 62)
{
    for (juce::Component* child : std::initializer_list<juce::Component*>{&mixLabel, &gainLabel, &mix, &gain})
        addAndMakeVisible(child);
    if (output != nullptr)
        for (juce::Component* child : std::initializer_list<juce::Component*>{&inLabel, &outLabel, &reduction, &in,
                                                                              &out, &match, &limiter, &limitBounces})
            addAndMakeVisible(child);
    if (render != nullptr)
    {
        addAndMakeVisible(freeze);
        addAndMakeVisible(folder);
        addAndMakeVisible(chip);
    }
    named(match, "Match loudness",
          "Brings the generated signal to the loudness of the source, so that Mix does not "
          "change the level");
    named(limiter, "Limiter", "A safety limiter at -1 dBFS; off in bounces unless chosen");
    named(limitBounces, "Limiter in bounces too", "Use the limiter in bounces as well");
    named(freeze, "Freeze", "Play the rendered result without the engine");
    match.onClick = [this] { output->setLoudnessMatch(match.getToggleState()); };
    limiter.onClick =
        limitBounces.onClick = [this] { output->setLimiter(limiter.getToggleState(), limitBounces.getToggleState()); };
    freeze.onClick = [this] { render->setFrozen(freeze.getToggleState()); };
    folder.onClick = [this] { chooseFolder(); };
    refresh();
}

void OutputPanel::chooseFolder()
{
    const RenderView view = render->view();
    juce::PopupMenu menu;
    menu.addSectionHeader("Freeze keeps takes in");
    menu.addItem("Your data folder", true, view.isUsersFolder, [this] { render->setFolder({}); });
    if (!view.isUsersFolder)
        menu.addItem(view.folder.getFullPathName(), true, true, [] {});
    menu.addItem("Another folder, for example the project's ...",
                 [this, view]
                 {
                     chooser = std::make_unique<juce::FileChooser>("Folder of frozen takes", view.folder);
                     chooser->launchAsync(juce::FileBrowserComponent::openMode |
                                              juce::FileBrowserComponent::canSelectDirectories,
                                          [this](const juce::FileChooser& done)
                                          {
                                              if (done.getResult() != juce::File())
                                                  render->setFolder(done.getResult());
                                          });
                 });
    menu.addSeparator();
    menu.addItem("Show this folder", view.folder.isDirectory(), false, [view] { view.folder.revealToUser(); });
    menu.showMenuAsync(juce::PopupMenu::Options().withTargetComponent(folder));
}

void OutputPanel::refresh()
{
    if (render == nullptr)
        return;
    const RenderView view = render->view();
    freeze.setToggleState(view.isFrozen, juce::dontSendNotification);
    freeze.setEnabled(view.isFrozen || view.canFreeze);
    chip.show(view);
    folder.setTooltip("Folder of frozen takes: " + view.folder.getFullPathName());
}

void OutputPanel::refreshLevels(double seconds)
{
    if (output == nullptr)
        return;
    const OutputView view = output->take();
    in.push(view.input, seconds);
    out.push(view.output, seconds);
    reduction.setText(view.limiterReduction > 0.05f ? "-" + juce::String(view.limiterReduction, 1) + " dB"
                                                    : juce::String());
    match.setToggleState(view.matchesLoudness, juce::dontSendNotification);
    limiter.setToggleState(view.limits, juce::dontSendNotification);
    limitBounces.setToggleState(view.limitsBounces, juce::dontSendNotification);
    limitBounces.setEnabled(view.limits);
}

void OutputPanel::resized()
{
    auto area = placeHeading();
    const auto place = [&](Text& label, juce::Component& control, int height)
    {
        auto row = area.removeFromTop(height);
        label.setBounds(row.removeFromLeft(36));
        control.setBounds(row);
    };
    place(mixLabel, mix, 30);
    place(gainLabel, gain, 30);
    if (output != nullptr)
    {
        area.removeFromTop(4);
        const auto meter = [&](Text& label, LevelMeter& bars)
        {
            auto row = area.removeFromTop(16);
            label.setBounds(row.removeFromLeft(36));
            bars.setBounds(row.reduced(0, 3));
        };
        meter(inLabel, in);
        meter(outLabel, out);
        area.removeFromTop(6);
        auto row = area.removeFromTop(26);
        match.setBounds(row.removeFromLeft(160));
        reduction.setBounds(row);
        row = area.removeFromTop(26);
        limiter.setBounds(row.removeFromLeft(96));
        limitBounces.setBounds(row);
    }
    if (render != nullptr)
    {
        area.removeFromTop(6);
        auto row = area.removeFromTop(28);
        freeze.setBounds(row.removeFromLeft(82));
        folder.setBounds(row.removeFromLeft(metrics::field + 2));
        chip.setBounds(row.withTrimmedLeft(metrics::gap));
    }
}
} // namespace demon
