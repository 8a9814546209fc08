// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <limits>
#include <vector>

#include "Session.h"

namespace host
{
/// What a Loop holds: whole frames of the timeline, zero where nothing was captured.
struct Clip
{
    static constexpr int kFadeSamples = 128; ///< between the dry signal and the clip's
    static constexpr juce::int64 kNothing = std::numeric_limits<juce::int64>::max();

    Audio audio;
    juce::int64 start = 0;              ///< sample of the timeline
    int frame = 1920;                   ///< samples
    juce::int64 missingFrom = kNothing; ///< from this sample on the engine has sent nothing yet

    juce::int64 first() const { return floored(start); }
    juce::int64 end() const { return floored(start + audio.getNumSamples() + frame - 1); }
    bool covers(juce::int64 place) const { return place >= first() && place < end() && place < missingFrom; }
    float at(int channel, juce::int64 place) const
    {
        const juce::int64 i = place - start;
        return i >= 0 && i < audio.getNumSamples() ? audio.getSample(channel, static_cast<int>(i)) : 0.0f;
    }

private:
    juce::int64 floored(juce::int64 place) const
    {
        const juce::int64 inside = place % frame;
        return place - (inside < 0 ? inside + frame : inside);
    }
};

/// An instance that captures its first run over the timeline, and plays what the engine of the tests makes of it.
class LoopPlugin
{
public:
    /// The environment says Mode::loop.
    explicit LoopPlugin(HostedPlugin& hosted) : plugin(hosted) {}

    /// Plays `input` from `start` on, which becomes the clip, and stops. Returns what was heard.
    Audio capture(const Audio& input, juce::int64 start = 0, const Blocks& blocks = {512})
    {
        clip.audio = input;
        clip.start = start;
        clip.frame = static_cast<int>(plugin.transport.rate) / 25;
        plugin.transport.sample = start;
        const Audio output = plugin.play(input, blocks);
        stop();
        return output;
    }

    void stop()
    {
        plugin.transport.playing = false;
        plugin.play(silence(64, channels()), {64});
        plugin.transport.playing = true;
    }

    /// One run over the whole clip is the engine's, to the sample.
    bool isWhole()
    {
        plugin.transport.sample = clip.first();
        const Audio quiet = silence(static_cast<int>(clip.end() - clip.first()), channels());
        return firstOther(plugin.play(quiet, {512}), quiet) == -1;
    }

    /// In real time takes arrive while it plays.
    bool becomesWhole()
    {
        return passMessagesUntil([this] { return isWhole(); });
    }

    /// The first sample of the last play() that is not the engine's where the clip is, and not the input elsewhere;
    /// -1 when there is none. One fades into the other, but at the start of a run over the timeline.
    int firstOther(const Audio& output, const Audio& input) const
    {
        const std::vector<juce::int64>& places = plugin.places();
        bool wasWet = false;
        int fading = Clip::kFadeSamples; // what sounded before may have been the clip
        for (int i = 0; i < output.getNumSamples(); ++i)
        {
            const juce::int64 place = places[static_cast<std::size_t>(i)];
            const bool isWet = place != HostedPlugin::kNowhere && clip.covers(place);
            const bool goesOn = i > 0 && place == places[static_cast<std::size_t>(i - 1)] + 1;
            if (isWet && !goesOn)
                fading = 0;
            else if (isWet != wasWet)
                fading = Clip::kFadeSamples;
            wasWet = isWet;
            if (fading-- > 0)
                continue;
            for (int channel = 0; channel < output.getNumChannels(); ++channel)
            {
                const float expected = isWet ? -clip.at(channel, place) : input.getSample(channel, i);
                if (output.getSample(channel, i) != expected)
                    return i;
            }
        }
        return -1;
    }

    Clip clip;

private:
    int channels() const { return clip.audio.getNumChannels(); }

    HostedPlugin& plugin;
};

/// A Session in mode Loop.
struct LoopSession : Session
{
    LoopPlugin loop{plugin};

    explicit LoopSession(bool offline, double rate = 48000.0) : Session(offline, rate, 4096, Mode::loop) {}
};
} // namespace host
