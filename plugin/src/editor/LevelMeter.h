// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Models.h"
#include "Widgets.h"

namespace demon
{
/// Two bars on a scale of decibels, -60 to +6, with a held peak. Falls 24 dB a second.
class LevelMeter : public juce::Component, public juce::SettableTooltipClient
{
public:
    explicit LevelMeter(const juce::String& name);
    void push(const LevelView& level, double secondsSinceLast);
    void paint(juce::Graphics&) override;
    std::unique_ptr<juce::AccessibilityHandler> createAccessibilityHandler() override;

private:
    struct Bar
    {
        float decibels = -100.0f, held = -100.0f;
        double heldFor = 0.0;
        bool push(float level, double seconds);
    };
    Bar bars[2];
};
} // namespace demon
