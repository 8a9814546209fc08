// SPDX-License-Identifier: AGPL-3.0-or-later
#include "StatusBar.h"

namespace demon
{
namespace
{
juce::Colour colourOf(Severity severity, const Palette& p)
{
    switch (severity)
    {
    case Severity::error:
        return p.late;
    case Severity::warning:
        return p.inFlight;
    case Severity::busy:
        return p.stale;
    case Severity::calm:
        break;
    }
    return p.ready;
}
} // namespace

StatusBar::StatusBar(StatusModel& statusModel) : model(statusModel)
{
    setTitle("Status");
    setFocusContainerType(FocusContainerType::focusContainer);
    for (Text* part : {&code, &text, &detail})
        addAndMakeVisible(part);
    named(acknowledge, "Acknowledge the error", "The error has been seen: clear it");
    acknowledge.onClick = [this] { model.acknowledge(); };
    addChildComponent(acknowledge);
    refresh();
}

void StatusBar::refresh()
{
    const StatusView view = model.view();
    if (view.code == shown.code && view.text == shown.text && view.detail == shown.detail &&
        view.severity == shown.severity && view.canAcknowledge == shown.canAcknowledge)
        return;
    shown = view;
    code.setText(view.code);
    code.setColour(view.severity == Severity::error ? +[](const Palette& p) { return p.late; }
                                                    : +[](const Palette& p) { return p.inFlight; });
    text.setText(view.text);
    text.setTooltip(view.text); // what does not fit can be read there
    detail.setText(view.detail);
    detail.setTooltip(view.detail);
    acknowledge.setVisible(view.canAcknowledge);
    if (auto* handler = getAccessibilityHandler(); handler != nullptr && view.severity == Severity::error)
        juce::AccessibilityHandler::postAnnouncement(view.code + " " + view.text,
                                                     juce::AccessibilityHandler::AnnouncementPriority::high);
    resized();
    repaint();
}

void StatusBar::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    graphics.fillAll(shown.severity == Severity::error ? p.panel.interpolatedWith(p.late, 0.14f) : p.panel);
    graphics.setColour(colourOf(shown.severity, p));
    graphics.fillEllipse(juce::Rectangle<float>(8.0f, 8.0f).withCentre({18.0f, static_cast<float>(getHeight()) / 2}));
}

void StatusBar::resized()
{
    auto area = getLocalBounds().withTrimmedLeft(32).withTrimmedRight(metrics::pad);
    if (acknowledge.isVisible())
    {
        acknowledge.setBounds(area.removeFromRight(76).reduced(0, 4));
        area.removeFromRight(metrics::gap);
    }
    const auto width = [](const Text& part, bool bold, float size)
    { return part.getText().isEmpty() ? 0 : uiFont(size, bold).getStringWidth(part.getText()) + 8; };
    code.setBounds(area.removeFromLeft(width(code, true, metrics::textSize)));
    const int wanted = width(text, false, metrics::textSize);
    detail.setBounds(area.removeFromRight(
        juce::jlimit(0, juce::jmax(0, area.getWidth() - wanted), width(detail, false, metrics::smallSize))));
    text.setBounds(area);
}
} // namespace demon
