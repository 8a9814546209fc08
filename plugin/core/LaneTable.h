// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "SpscRing.h"
#include "WireLanes.h"

namespace demon
{
/// One change of a LaneTable: lane `column` has `value` in the frames [first, end). Nothing but the origin changes when
/// the range is empty.
struct LaneEdit
{
    std::int32_t epoch = 0; ///< of the clip
    std::int32_t column = 0;
    std::int64_t first = 0, end = 0; ///< on the timeline
    float value = 0.0f;
    bool isDrawn = false;      ///< the lane follows what was drawn from now on, and else the host
    std::int32_t revision = 0; ///< of the table that this change leads to
};

using EditRing = SpscRing<LaneEdit>;

/// The value of each wire lane in each frame of a clip, and which lanes were drawn in the editor. The audio thread has
/// one (LaneMemory); whoever takes the edits keeps another by the same changes, so that no table is shared.
///
/// Kept lane by lane, [wire lanes, frames]: a lane is filled to the clip's end in one stroke. Construction and copies
/// allocate, nothing else does; no thread of its own.
class LaneTable
{
public:
    /// Room for `capacity` frames; there are none yet.
    explicit LaneTable(std::int64_t capacity = 0)
        : most(std::max<std::int64_t>(capacity, 0)), values(kWireLaneCount * static_cast<std::size_t>(most))
    {
    }

    /// Starts anew: without frames, the first of which will be `newFirst`.
    void begin(std::int64_t newFirst) noexcept
    {
        first = newFirst;
        count = 0;
        changes = 0;
        drawnLanes.reset();
    }

    /// Adds a frame. Ignored when there is no room.
    void append(const WireLaneValues& row) noexcept
    {
        if (count == most)
            return;
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
            lane(column)[count] = row[column];
        ++count;
    }

    /// Applies a change, as far as it lies inside.
    void apply(const LaneEdit& edit) noexcept
    {
        if (edit.column < 0 || static_cast<std::size_t>(edit.column) >= kWireLaneCount)
            return;
        const auto column = static_cast<std::size_t>(edit.column);
        const std::int64_t from = std::max(edit.first, first), to = std::min(edit.end, end());
        if (from < to)
            std::fill(lane(column) + (from - first), lane(column) + (to - first), edit.value);
        drawnLanes[column] = edit.isDrawn;
        changes = edit.revision;
    }

    std::int64_t capacity() const noexcept { return most; }
    std::int64_t firstFrame() const noexcept { return first; }
    std::int64_t frames() const noexcept { return count; }
    std::int64_t end() const noexcept { return first + count; } ///< the frame after the last
    std::int32_t revision() const noexcept { return changes; }  ///< counts the changes since begin
    bool isDrawn(std::size_t column) const noexcept { return drawnLanes[column]; }
    void setDrawn(std::size_t column, bool isDrawnNow) noexcept { drawnLanes[column] = isDrawnNow; }

    /// The value at a frame that exists.
    float at(std::size_t column, std::int64_t frame) const noexcept
    {
        return values[column * static_cast<std::size_t>(most) + static_cast<std::size_t>(frame - first)];
    }

    /// All lanes at a frame that exists.
    WireLaneValues row(std::int64_t frame) const noexcept
    {
        WireLaneValues result{};
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
            result[column] = at(column, frame);
        return result;
    }

private:
    float* lane(std::size_t column) noexcept { return values.data() + column * static_cast<std::size_t>(most); }

    std::int64_t most;
    std::int64_t first = 0, count = 0;
    std::int32_t changes = 0;
    std::bitset<kWireLaneCount> drawnLanes;
    std::vector<float> values; ///< [wire lanes, capacity]
};
} // namespace demon
