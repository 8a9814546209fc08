// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Widgets.h"

namespace demon
{
/// A titled box. Its controls form a group for the keyboard and for screen readers.
class Panel : public juce::Component
{
public:
    explicit Panel(const juce::String& title) : heading(title, Text::Tone::title)
    {
        setTitle(title);
        setFocusContainerType(FocusContainerType::focusContainer);
        addAndMakeVisible(heading);
    }
    void paint(juce::Graphics& graphics) override { fillPanel(graphics, getLocalBounds(), paletteOf(*this)); }

protected:
    /// The space inside the box, with the heading placed.
    juce::Rectangle<int> placeHeading()
    {
        auto area = getLocalBounds().reduced(metrics::pad, 0).withTrimmedBottom(metrics::pad - 2);
        headingLine = area.removeFromTop(metrics::title + 8).withTrimmedTop(4);
        heading.setBounds(headingLine);
        return area;
    }
    juce::Rectangle<int> headingLine;
    Text heading;
};
} // namespace demon
