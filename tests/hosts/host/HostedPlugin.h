// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <functional>
#include <juce_audio_processors/juce_audio_processors.h>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace host
{
/// What the host tells the plugin of its transport. A test sets it; `play` moves it on.
struct Transport : juce::AudioPlayHead
{
    bool playing = true;
    bool hasPosition = true; ///< some hosts tell none
    juce::int64 sample = 0;  ///< of the next block; may be negative
    double rate = 48000.0, bpm = 120.0;
    int beats = 4, beatUnit = 4;
    juce::int64 loopStart = 0, loopEnd = 0; ///< samples; it loops where the end lies after the start

    juce::Optional<PositionInfo> getPosition() const override;
};

/// Channels of audio, as long as each other.
using Audio = juce::AudioBuffer<float>;

Audio noise(int samples, unsigned seed = 3, int channels = 2); ///< evenly distributed, from -0.5 to 0.5
Audio silence(int samples, int channels = 2);
Audio part(const Audio& audio, int first, int count);
bool isFinite(const Audio& audio);

/// Sizes of blocks that are used in turn.
using Blocks = std::vector<int>;

/// One instance of a VST3 plugin, loaded from its bundle as a DAW loads it, with the host's side of the contract.
///
/// Everything but `process` and `play` belongs to the thread that made it, which is JUCE's message thread; those two to
/// one thread at a time.
class HostedPlugin
{
public:
    /// The bundle that HOST_BUNDLE names. Throws std::runtime_error when it cannot be loaded.
    static std::string bundle();
    explicit HostedPlugin(double rate = 48000.0, int longestBlock = 4096, bool offline = false,
                          const std::string& path = bundle());
    ~HostedPlugin();

    /// As when the user changes the sound card's rate or starts a bounce.
    void prepare(double rate, int longestBlock, bool offline);

    /// `input` through the plugin in blocks of these sizes; a size of 0 is a block without samples. `between` is called
    /// after every block. The transport moves on while it plays, and jumps at the end of its loop.
    Audio play(
        const Audio& input, const Blocks& blocks, const std::function<void()>& between = [] {});

    /// One block in place; the transport stays where it is.
    void process(Audio& block);

    int latency() const { return instance->getLatencySamples(); }
    /// Where each sample of the last play() lay on the timeline; kNowhere while the transport stood.
    const std::vector<juce::int64>& places() const { return played; }
    static constexpr juce::int64 kNowhere = std::numeric_limits<juce::int64>::min();

    juce::MemoryBlock save() const;
    void restore(const juce::MemoryBlock& state);

    /// The host's thread rests.
    void useChannels(const juce::AudioChannelSet& channels);

    juce::AudioProcessorParameter& parameter(const juce::String& name) const; ///< throws when there is none

    /// The parameters that the plugin offers for automation. Others are no controls: JUCE's VST3 has one for every MIDI
    /// controller, which a plugin cannot answer for.
    juce::Array<juce::AudioProcessorParameter*> parameters() const;

    const juce::ScopedJuceInitialiser_GUI juceRuntime; ///< first made, last gone
    Transport transport;
    std::unique_ptr<juce::AudioPluginInstance> instance;

private:
    juce::MidiBuffer midi;
    std::vector<juce::int64> played;
};

/// Lets JUCE's messages pass: what a DAW's main thread does all the time.
void passMessages(int milliseconds);
} // namespace host
