// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <optional>

namespace demon
{
/// What the host says about one block. `sample` is the timeline position of the block's first sample.
struct Transport
{
    bool offline = false;
    bool hasPosition = false;
    bool playing = false;
    std::int64_t sample = 0;
    bool hasMusic = false; ///< ppq and bpm are valid
    double ppq = 0.0;      ///< quarter notes, negative before the timeline's zero
    double bpm = 120.0;
};

/// Decides where on the timeline a block lies and whether it continues the last one.
///
///   playing                                the host's sample position
///   playing, stalled, ppq negative         pre-roll: counted back from ppq
///   offline and never playing              samples since the last reset
///   no position at all                     samples since the last reset
///   anything else (stopped)                nowhere: the dry signal passes
///
/// A position that differs from the expected one by a single sample is a locate. Audio thread only; real-time safe.
class Timeline
{
public:
    explicit Timeline(double samplesPerSecond) : rate(samplesPerSecond) {}

    struct Place
    {
        bool onTimeline = false;
        bool continues = false; ///< goes on where the last block ended
        std::int64_t sample = 0;
    };

    /// Forgets the past: the next block starts anew and is counted from zero.
    void reset() noexcept { *this = Timeline(rate); }

    /// Makes the next block a start, wherever it lies. Counting goes on.
    void interrupt() noexcept { expected.reset(); }

    /// The place of a block of `count` samples, > 0. To be called once for every block.
    Place advance(const Transport& transport, int count) noexcept
    {
        const std::optional<std::int64_t> sample = positionOf(transport, count);
        Place place;
        if (sample)
        {
            place.onTimeline = true;
            place.sample = *sample;
            place.continues = expected == sample && wasOffline == transport.offline;
            expected = *sample + count;
        }
        else
        {
            expected.reset();
        }
        wasOffline = transport.offline;
        lastHostSample = transport.playing ? std::optional(transport.sample) : std::nullopt;
        counted += count;
        return place;
    }

private:
    std::optional<std::int64_t> positionOf(const Transport& transport, int count) noexcept
    {
        if (transport.hasPosition && transport.playing)
        {
            hasPlayed = true;
            return isPreRoll(transport) ? preRollSample(transport, count) : transport.sample;
        }
        if (!transport.hasPosition || (transport.offline && !hasPlayed))
            return counted;
        return std::nullopt;
    }

    /// A negative ppq contradicts a sample position that does not advance (Ardour while it fills the latency). On the
    /// first block of a roll there is nothing to compare with: then only zero, where Ardour stands meanwhile, is
    /// pre-roll. A song with a pickup bar has a negative ppq at any other sample.
    bool isPreRoll(const Transport& transport) const noexcept
    {
        return transport.hasMusic && transport.ppq < 0.0 && transport.sample >= 0 && transport.bpm > 0.0 &&
               transport.sample == lastHostSample.value_or(0);
    }

    /// ppq is rounded to ticks by hosts, so a position near the expected one is the expected one.
    std::int64_t preRollSample(const Transport& transport, int count) const noexcept
    {
        const auto sample = static_cast<std::int64_t>(std::llround(transport.ppq * 60.0 / transport.bpm * rate));
        const bool isNear = expected && std::llabs(*expected - sample) <= std::max(count / 2, kTickSamples);
        return isNear ? *expected : sample;
    }

    static constexpr int kTickSamples = 64; // a tick of 1/1920 quarter note at 30 bpm and 48 kHz is 50 samples

    double rate;
    std::optional<std::int64_t> expected;       ///< position after the last block, when it was on the timeline
    std::optional<std::int64_t> lastHostSample; ///< the last block's, when it was playing
    std::int64_t counted = 0;                   ///< samples since the last reset
    bool hasPlayed = false;                     ///< since the last reset
    bool wasOffline = false;
};
} // namespace demon
