// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>

namespace demon
{
/// The level of one stereo signal: the peak since the reader last asked, and a running mean of the squares.
///
/// Threads: measure belongs to the audio thread, takePeak to one reader, rms to any; all are wait-free. A peak that
/// falls between the two may show twice.
class Meter
{
public:
    static constexpr float kMeanSeconds = 0.3f;

    /// `samplesPerSecond` > 0.
    void measure(std::array<const float*, 2> audio, std::size_t count, float samplesPerSecond) noexcept
    {
        const float share = std::min(1.0f, static_cast<float>(count) / (kMeanSeconds * samplesPerSecond));
        for (std::size_t ch = 0; ch < 2; ++ch)
        {
            float highest = 0.0f, sum = 0.0f;
            for (std::size_t i = 0; i < count; ++i)
            {
                highest = std::max(highest, std::abs(audio[ch][i]));
                sum += audio[ch][i] * audio[ch][i];
            }
            if (highest > peaks[ch].load(std::memory_order_relaxed))
                peaks[ch].store(highest, std::memory_order_relaxed);
            const float mean = meanSquares[ch].load(std::memory_order_relaxed);
            const float now = count > 0 ? sum / static_cast<float>(count) : mean;
            meanSquares[ch].store(mean + share * (now - mean), std::memory_order_relaxed);
        }
    }

    /// The largest magnitude since the last call; how it falls on the screen is the reader's affair.
    float takePeak(std::size_t channel) noexcept { return peaks[channel].exchange(0.0f, std::memory_order_relaxed); }

    /// Over about kMeanSeconds, as the audio goes: it stays where it is while the host does not process.
    float rms(std::size_t channel) const noexcept
    {
        return std::sqrt(meanSquares[channel].load(std::memory_order_relaxed));
    }

private:
    std::array<std::atomic<float>, 2> peaks{};
    std::array<std::atomic<float>, 2> meanSquares{};
};

/// The levels that a player shows.
struct Meters
{
    Meter input;  ///< as it comes in
    Meter dry;    ///< delayed by the latency
    Meter wet;    ///< windows and what replaces them, before the mix
    Meter output; ///< as it goes out
};
} // namespace demon
