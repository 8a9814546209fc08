// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "SegmentMap.h"
#include "demon/timebase.h"

namespace demon
{
/// Where the next output sample of a player with latency lies. `isSilent` for the first latency after a start.
struct OutputPlace
{
    bool isSilent = true;
    std::int32_t epoch = 0; ///< 0: not on the timeline
    std::int64_t frame = 0;
    std::size_t offset = 0;    ///< inside the frame
    std::int64_t untilEnd = 0; ///< samples before any of the above changes

    /// `counter` is that of the input sample which now sounds, and must not decrease from call to call; negative ones
    /// are silence. Audio thread only; real-time safe.
    static OutputPlace of(SegmentMap& segments, FrameGrid grid, std::int64_t counter) noexcept
    {
        OutputPlace place;
        if (counter < 0)
        {
            place.untilEnd = -counter;
            return place;
        }
        const Segment& segment = segments.at(counter);
        place.isSilent = false;
        place.epoch = segment.epoch;
        place.untilEnd = segments.nextCounter() - counter;
        if (segment.epoch != 0)
        {
            const std::int64_t position = segment.position + (counter - segment.counter);
            place.frame = grid.frameOf(position);
            place.offset = static_cast<std::size_t>(grid.offsetOf(position));
            place.untilEnd = std::min<std::int64_t>(place.untilEnd, grid.length - grid.offsetOf(position));
        }
        return place;
    }
};
} // namespace demon
