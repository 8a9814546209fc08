// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "demon/timebase.h"

namespace demon
{
inline constexpr std::int64_t kMostClipFrames = 20 * 60 * kFramesPerSecond; // until the engine has said what it takes

/// The source of a loop: whole frames of stereo audio at the host's rate, from `firstFrame` of the timeline on.
/// Immutable once it is shared, so any thread may read it.
struct ClipAudio
{
    int rate = 48000;
    std::int64_t firstFrame = 0;
    std::int64_t frames = 0;
    std::vector<float> audio; ///< [2, frames * rate / 25]

    FrameGrid grid() const { return FrameGrid::forRate(rate); }
    std::int64_t endFrame() const { return firstFrame + frames; }
    std::int64_t startSample() const { return firstFrame * grid().length; }
    std::size_t samples() const { return static_cast<std::size_t>(frames * grid().length); }

    /// One frame of one channel. `frame` lies inside the clip.
    const float* at(std::int64_t frame, std::size_t channel) const
    {
        return audio.data() + channel * samples() + static_cast<std::size_t>((frame - firstFrame) * grid().length);
    }
};

/// A sound that conditions the model: its timbre or its structure.
struct ReferenceAudio
{
    std::string hash; ///< SPEC.md, `reference`
    int rate = 48000;
    std::vector<float> audio; ///< [2, samples]

    std::size_t samples() const { return audio.size() / 2; }
};
} // namespace demon
