// SPDX-License-Identifier: AGPL-3.0-or-later
// A plugin that does nothing, in the same wrapper as ours: what every plugin costs in the same host. It takes MIDI as
// ours does, for which JUCE gives it 2080 hidden parameters that a host looks through in every block.
#include <juce_audio_processors/juce_audio_processors.h>

namespace
{
class Empty : public juce::AudioProcessor
{
public:
    Empty()
        : AudioProcessor(BusesProperties()
                             .withInput("Input", juce::AudioChannelSet::stereo(), true)
                             .withOutput("Output", juce::AudioChannelSet::stereo(), true))
    {
    }
    void prepareToPlay(double, int) override {}
    void releaseResources() override {}
    void processBlock(juce::AudioBuffer<float>&, juce::MidiBuffer&) override {}
    using AudioProcessor::processBlock;
    double getTailLengthSeconds() const override { return 0.0; }
    void getStateInformation(juce::MemoryBlock&) override {}
    void setStateInformation(const void*, int) override {}
    juce::AudioProcessorEditor* createEditor() override { return nullptr; }
    bool hasEditor() const override { return false; }
    const juce::String getName() const override { return "Empty"; }
    bool acceptsMidi() const override { return true; }
    bool producesMidi() const override { return false; }
    int getNumPrograms() override { return 1; }
    int getCurrentProgram() override { return 0; }
    void setCurrentProgram(int) override {}
    const juce::String getProgramName(int) override { return {}; }
    void changeProgramName(int, const juce::String&) override {}
};
} // namespace

juce::AudioProcessor* JUCE_CALLTYPE createPluginFilter() { return new Empty(); }
