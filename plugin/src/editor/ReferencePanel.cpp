// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ReferencePanel.h"

namespace demon
{
namespace
{
juce::String wordFor(ReferenceKind kind) { return kind == ReferenceKind::timbre ? "Timbre" : "Structure"; }
} // namespace

DropZone::DropZone(ReferenceModel& references, ReferenceKind which)
    : Button(wordFor(which) + " reference"), model(references), kind(which),
      remove(Icon::remove, "Remove the " + wordFor(which).toLowerCase() + " reference")
{
    named(*this, getName(),
          kind == ReferenceKind::timbre
              ? "A clip whose sound to take: drop a WAV, FLAC or OGG file here, or press to choose"
              : "A clip whose structure to follow: drop a file here, or press to choose");
    addChildComponent(remove);
    remove.onClick = [this]
    {
        problem.clear();
        model.clear(kind);
        refresh();
    };
    onClick = [this] { browse(); };
}

void DropZone::browse()
{
    chooser = std::make_unique<juce::FileChooser>("Choose a " + wordFor(kind).toLowerCase() + " reference",
                                                  juce::File(), "*.wav;*.flac;*.ogg;*.aif;*.aiff");
    chooser->launchAsync(juce::FileBrowserComponent::openMode | juce::FileBrowserComponent::canSelectFiles,
                         [this](const juce::FileChooser& done)
                         {
                             if (done.getResult() != juce::File())
                                 load(done.getResult());
                         });
}

void DropZone::load(const juce::File& file)
{
    problem = model.load(kind, file);
    refresh();
}

void DropZone::refresh()
{
    ReferenceView view = model.view(kind);
    if (problem.isNotEmpty())
        view.problem = problem;
    const bool hasChanged = view.name != shown.name || view.problem != shown.problem || view.progress != shown.progress;
    shown = view;
    remove.setVisible(shown.name.isNotEmpty());
    setDescription(shown.name.isEmpty() ? "empty" : shown.name);
    if (hasChanged)
        repaint();
}

void DropZone::fileDragEnter(const juce::StringArray&, int, int)
{
    isTarget = true;
    repaint();
}

void DropZone::fileDragExit(const juce::StringArray&)
{
    isTarget = false;
    repaint();
}

void DropZone::filesDropped(const juce::StringArray& files, int, int)
{
    isTarget = false;
    load(juce::File(files[0]));
    repaint();
}

void DropZone::resized() { remove.setBounds(getLocalBounds().removeFromRight(24).removeFromTop(24)); }

void DropZone::paintButton(juce::Graphics& graphics, bool over, bool)
{
    const Palette& p = paletteOf(*this);
    const auto area = getLocalBounds().toFloat().reduced(0.75f);
    graphics.setColour(isTarget ? p.accent.withAlpha(0.18f) : p.well);
    graphics.fillRoundedRectangle(area, metrics::corner);
    juce::Path outline, dashed;
    outline.addRoundedRectangle(area, metrics::corner);
    const float dashes[] = {4.0f, 3.0f};
    juce::PathStrokeType(1.0f).createDashedStroke(dashed, outline, dashes, 2);
    graphics.setColour(isTarget || over ? p.accent : p.outline);
    graphics.fillPath(shown.name.isEmpty() ? dashed : juce::Path());
    if (shown.name.isNotEmpty())
        graphics.drawRoundedRectangle(area, metrics::corner, 1.0f);
    auto inner = getLocalBounds().reduced(8, 5);
    graphics.setFont(uiFont(metrics::smallSize));
    graphics.setColour(p.dimText);
    graphics.drawText(wordFor(kind), inner.removeFromTop(inner.getHeight() / 2).withTrimmedRight(18),
                      juce::Justification::centredLeft);
    juce::String line = shown.name.isEmpty() ? juce::String("Drop or choose") : shown.name;
    if (shown.progress)
        line = "Sending " + juce::String(juce::roundToInt(100.0 * *shown.progress)) + " %";
    if (shown.problem.isNotEmpty())
        line = shown.problem;
    graphics.setFont(uiFont());
    graphics.setColour(shown.problem.isNotEmpty() ? p.late : shown.name.isEmpty() ? p.dimText : p.text);
    graphics.drawFittedText(line, inner, juce::Justification::centredLeft, 1, 0.8f);
}

ReferencePanel::ReferencePanel(ReferenceModel& model)
    : Panel("References"), timbre(model, ReferenceKind::timbre), structure(model, ReferenceKind::structure)
{
    addAndMakeVisible(timbre);
    addAndMakeVisible(structure);
}

void ReferencePanel::refresh()
{
    timbre.refresh();
    structure.refresh();
}

void ReferencePanel::resized()
{
    auto area = placeHeading();
    timbre.setBounds(area.removeFromLeft((area.getWidth() - metrics::gap) / 2));
    structure.setBounds(area.withTrimmedLeft(metrics::gap));
}
} // namespace demon
