// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <bitset>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "SpscRing.h"
#include "WireLanes.h"

namespace demon
{
/// One change of a LaneTable: lane `column` has `value` in the frames [first, end), and its record there is `recorded`.
/// Nothing but the origin changes when the range is empty.
struct LaneEdit
{
    static constexpr float kAsBefore = std::numeric_limits<float>::quiet_NaN();

    std::int32_t epoch = 0; ///< of the clip
    std::int32_t column = 0;
    std::int64_t first = 0, end = 0; ///< on the timeline
    float value = 0.0f;
    float recorded = kAsBefore; ///< NaN leaves the record as it is
    bool isDrawn = false;       ///< the lane follows what was drawn from now on, and else the host
    std::int32_t revision = 0;  ///< of the table that this change leads to
};

using EditRing = SpscRing<LaneEdit>;

/// The value of each wire lane in each frame of a clip, and which lanes were drawn in the editor. Under what was drawn
/// lies the record of what the host played, to which a frame returns when its drawing is erased or undone. The audio
/// thread has one table (LaneMemory); whoever takes the edits keeps another by the same changes, so that none is
/// shared.
///
/// Kept lane by lane, [wire lanes, frames]: a lane is filled to the clip's end in one stroke. Construction and copies
/// allocate, nothing else does; no thread of its own.
class LaneTable
{
public:
    /// Room for `capacity` frames; there are none yet.
    explicit LaneTable(std::int64_t capacity = 0)
        : most(std::max<std::int64_t>(capacity, 0)), values(kWireLaneCount * static_cast<std::size_t>(most)),
          records(values.size())
    {
    }

    /// `frames` frames from `first` on, all with the same values.
    static LaneTable held(std::int64_t first, std::int64_t frames, const WireLaneValues& values)
    {
        LaneTable table(frames);
        table.begin(first);
        for (std::int64_t i = 0; i < frames; ++i)
            table.append(values);
        return table;
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
            values[index(column, end())] = records[index(column, end())] = row[column];
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
        {
            fill(values, column, from, to, edit.value);
            if (!std::isnan(edit.recorded))
                fill(records, column, from, to, edit.recorded);
        }
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
    float at(std::size_t column, std::int64_t frame) const noexcept { return values[index(column, frame)]; }

    /// What the host played at a frame that exists.
    float recordedAt(std::size_t column, std::int64_t frame) const noexcept { return records[index(column, frame)]; }

    /// All lanes at a frame that exists.
    WireLaneValues row(std::int64_t frame) const noexcept
    {
        WireLaneValues result{};
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
            result[column] = at(column, frame);
        return result;
    }

private:
    std::size_t index(std::size_t column, std::int64_t frame) const noexcept
    {
        return column * static_cast<std::size_t>(most) + static_cast<std::size_t>(frame - first);
    }
    void fill(std::vector<float>& layer, std::size_t column, std::int64_t from, std::int64_t to, float value) noexcept
    {
        const auto begin = layer.begin() + static_cast<std::ptrdiff_t>(index(column, from));
        std::fill(begin, begin + (to - from), value);
    }

    std::int64_t most;
    std::int64_t first = 0, count = 0;
    std::int32_t changes = 0;
    std::bitset<kWireLaneCount> drawnLanes;
    std::vector<float> values, records; ///< [wire lanes, capacity]
};
} // namespace demon
