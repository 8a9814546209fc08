// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Models.h"
#include "Widgets.h"

namespace demon
{
/// The most urgent thing first, always with its stable code.
class StatusBar : public juce::Component
{
public:
    explicit StatusBar(StatusModel& model);
    void refresh();
    void paint(juce::Graphics&) override;
    void resized() override;

private:
    StatusModel& model;
    StatusView shown;
    Text code{{}, Text::Tone::title}, text, detail{{}, Text::Tone::dim, juce::Justification::centredRight};
    juce::TextButton acknowledge{"Got it"};
};
} // namespace demon
