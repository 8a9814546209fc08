// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_gui_basics/juce_gui_basics.h>

#include "LaneList.h"
#include "PluginProcessor.h"

namespace demon
{
/// A plain view of the processor, polled by a timer. Holds no state of its own. Message thread only.
class PluginEditor : public juce::AudioProcessorEditor, private juce::Timer
{
public:
    explicit PluginEditor(PluginProcessor& owner);
    void paint(juce::Graphics&) override;
    void resized() override;

private:
    void timerCallback() override;
    void showSettings();
    void applySettings();
    void showLine(juce::Label& label, const juce::String& text);
    void addField(juce::Label& label, const juce::String& name, juce::Component& field);

    PluginProcessor& processor;
    Settings shown; ///< what the fields were last filled from

    juce::Label status, detail;
    juce::TextButton acknowledge{"OK"};
    juce::Label promptLabel, seedLabel, stepsLabel, solverLabel, latencyLabel, lateLabel, endpointLabel;
    juce::TextEditor prompt, seed, steps, endpoint;
    juce::ComboBox solver, latency, late;
    LaneList laneList;
    juce::Viewport viewport;
    juce::TooltipWindow tooltips{this};
};
} // namespace demon
