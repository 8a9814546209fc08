// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "ClipAudio.h"
#include "FrameHash.h"
#include "LaneTable.h"
#include "demon/timebase.h"

namespace demon
{
/// A view of a frozen result, as the audio thread needs it: whole frames at one rate, where they lie on the timeline,
/// and what they were made from. Without frames it is nothing frozen. What it points to does not change, and lives as
/// long as `owner`; let the audio thread not be the last to hold that.
struct FrozenAudio
{
    FrameGrid grid;
    std::int64_t firstFrame = 0, frames = 0;
    std::array<const float*, 2> audio{};        ///< each frames * grid.length samples
    const std::uint64_t* inputHashes = nullptr; ///< per frame, 0: not known; or null: nothing can be compared
    LaneSelection lanes;                        ///< that the hashes are made of
    std::shared_ptr<const void> owner;

    bool hasFrame(std::int64_t frame) const noexcept { return frame >= firstFrame && frame - firstFrame < frames; }

    /// Both channels of a frame that exists.
    std::array<const float*, 2> at(std::int64_t frame) const noexcept
    {
        const std::int64_t offset = (frame - firstFrame) * grid.length;
        return {audio[0] + offset, audio[1] + offset};
    }

    /// See FrameHasher; 0 where it is not known.
    std::uint64_t inputHash(std::int64_t frame) const noexcept
    {
        return inputHashes != nullptr && hasFrame(frame) ? inputHashes[frame - firstFrame] : 0;
    }
};

/// The clip that a loop would regenerate now. Does not change; null where there is none.
struct FrozenClip
{
    std::shared_ptr<const ClipAudio> source;
    std::shared_ptr<const LaneTable> lanes;
};
} // namespace demon
