// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace demon
{
inline constexpr int kFramesPerSecond = 25;
inline constexpr int kMinRate = 8000;
inline constexpr int kMaxRate = 192000;
inline constexpr int kModelRate = 48000; ///< what the engine resamples to

/// True when a frame is a whole number of samples at `rate` and the protocol allows the rate.
constexpr bool isSupportedRate(std::int64_t rate) noexcept
{
    return rate >= kMinRate && rate <= kMaxRate && rate % kFramesPerSecond == 0;
}

/// Rounds towards minus infinity, so that the frame grid has no seam at timeline zero. `divisor` > 0.
constexpr std::int64_t floorDivide(std::int64_t value, std::int64_t divisor) noexcept
{
    const std::int64_t quotient = value / divisor;
    return quotient - (value % divisor < 0 ? 1 : 0);
}

/// The absolute grid of frames on a timeline: frame `f` covers the samples [f * length, (f + 1) * length).
/// Positions and frames may be negative.
struct FrameGrid
{
    int length = 1920; ///< samples per frame, > 0

    static constexpr FrameGrid forRate(int rate) noexcept { return {rate / kFramesPerSecond}; }

    /// The frame that contains `sample`.
    constexpr std::int64_t frameOf(std::int64_t sample) const noexcept { return floorDivide(sample, length); }

    constexpr std::int64_t firstSampleOf(std::int64_t frame) const noexcept { return frame * length; }

    /// Samples from the start of its frame to `sample`: 0..length-1.
    constexpr int offsetOf(std::int64_t sample) const noexcept
    {
        return static_cast<int>(sample - firstSampleOf(frameOf(sample)));
    }

    /// The first frame that begins at or after `sample`.
    constexpr std::int64_t frameFrom(std::int64_t sample) const noexcept { return frameOf(sample + length - 1); }
};
} // namespace demon
