// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "PluginProcessor.h"
#include "TemporaryFolder.h"
#include "catch.h"

/// The processor as a host and its user see it, in this process.
namespace processor_host
{
using namespace demon;

inline constexpr int kRate = 48000;
inline constexpr int kFrame = 1920;
inline constexpr const char* kNobody = "tcp://127.0.0.1:9"; ///< an endpoint at which nobody listens

using Signal = std::vector<float>;
using Blocks = std::vector<int>; ///< sizes that are used in turn

inline Signal noise(std::size_t count, unsigned seed = 3)
{
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> values(-1.0f, 1.0f);
    Signal signal(count);
    std::generate(signal.begin(), signal.end(), [&] { return values(random); });
    return signal;
}

inline Signal negative(Signal signal)
{
    for (float& value : signal)
        value = -value;
    return signal;
}

/// Whether `output` is `factor` times the input of `latency` samples ago, silence before it.
inline bool isDelayed(const Signal& output, const Signal& input, int latency, float factor = 1.0f)
{
    const auto delay = static_cast<std::size_t>(latency);
    for (std::size_t i = 0; i < output.size(); ++i)
        if (output[i] != (i < delay ? 0.0f : factor * input[i - delay]))
            return false;
    return true;
}

inline float largestStep(const Signal& signal, std::size_t from = 1)
{
    float largest = 0.0f;
    for (std::size_t i = std::max<std::size_t>(from, 1); i < signal.size(); ++i)
        largest = std::max(largest, std::abs(signal[i] - signal[i - 1]));
    return largest;
}

struct PlayHead : juce::AudioPlayHead
{
    bool playing = true;
    juce::int64 sample = 0;
    juce::Optional<PositionInfo> getPosition() const override
    {
        PositionInfo info;
        info.setIsPlaying(playing);
        info.setTimeInSamples(sample);
        return info;
    }
};

/// The user's folders, apart from those of this machine. Before the processors that look into them.
struct User
{
    TemporaryFolder folder;
    ScopedVariable data{"XDG_DATA_HOME", (folder / "data").string()};
    ScopedVariable config{"XDG_CONFIG_HOME", (folder / "config").string()};
    std::filesystem::path frozen() const { return folder / "data/demon-bridge/frozen"; }
};

/// What the environment says to a processor while this lives. Afterwards it says what it said before, or is empty,
/// which is unset: to take variables out would move the others, and threads (ZeroMQ's, for one) may be reading them.
class Environment
{
public:
    Environment(const std::string& endpoint, const std::string& latencySeconds, PlayMode mode)
    {
        const std::string timeout = endpoint == kNobody ? "0.3" : "30";
        before = exchange({endpoint, latencySeconds, timeout, mode == PlayMode::loop ? "loop" : "stream"});
    }
    ~Environment() { exchange(before); }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;

private:
    using Values = std::array<std::string, 4>;

    static Values exchange(const Values& values)
    {
        constexpr std::array names{"DEMON_ENDPOINT", "DEMON_LATENCY_S", "DEMON_TIMEOUT_S", "DEMON_MODE"};
        Values old;
        for (std::size_t i = 0; i < names.size(); ++i)
        {
            const char* const value = std::getenv(names[i]);
            old[i] = value != nullptr ? value : "";
            setenv(names[i], values[i].c_str(), 1);
        }
        return old;
    }

    Values before;
};

struct Host
{
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    PlayHead playHead;
    const Environment environment;
    std::unique_ptr<PluginProcessor> plugin = std::make_unique<PluginProcessor>();

    explicit Host(bool offline, const std::string& address = kNobody, const std::string& latencySeconds = "0.4",
                  PlayMode mode = PlayMode::stream)
        : environment(address, latencySeconds, mode)
    {
        start(offline);
    }

    /// The processor is new.
    void start(bool offline, bool isPrepared = true)
    {
        plugin->setNonRealtime(offline);
        plugin->setPlayHead(&playHead);
        if (isPrepared)
            prepare(kRate);
    }

    void prepare(double rate)
    {
        plugin->setRateAndBufferSizeDetails(rate, 4096);
        plugin->prepareToPlay(rate, 4096);
    }

    /// `input` on both sides. Returns the left output.
    Signal play(const Signal& input, const Blocks& blocks = {480})
    {
        Signal output;
        juce::MidiBuffer midi;
        for (std::size_t at = 0, block = 0; at < input.size(); ++block)
        {
            const int size = std::min(blocks[block % blocks.size()], static_cast<int>(input.size() - at));
            juce::AudioBuffer<float> buffer(2, size);
            for (int channel = 0; channel < 2; ++channel)
                buffer.copyFrom(channel, 0, input.data() + at, size);
            plugin->processBlock(buffer, midi);
            output.insert(output.end(), buffer.getReadPointer(0), buffer.getReadPointer(0) + size);
            at += static_cast<std::size_t>(size);
            if (playHead.playing)
                playHead.sample += size;
        }
        return output;
    }

    void locate(juce::int64 sample)
    {
        plugin->reset();
        playHead.sample = sample;
    }

    /// What a sequencer does at the end of a bounce.
    void stop()
    {
        playHead.playing = false;
        play(Signal(64, 0.0f));
        playHead.playing = true;
    }

    juce::MemoryBlock save() const
    {
        juce::MemoryBlock saved;
        plugin->getStateInformation(saved);
        return saved;
    }

    void restore(const juce::MemoryBlock& saved) const
    {
        plugin->setStateInformation(saved.getData(), static_cast<int>(saved.getSize()));
    }

    std::string problemOfFrozen() const
    {
        const auto problem = plugin->frozen().problem();
        return problem ? problem->code : "";
    }
};
} // namespace processor_host
