// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <bitset>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "LaneTable.h"
#include "SpscRing.h"

namespace demon
{
/// What the user draws in the editor: the values of one lane in `count` frames from `first` on. Longer strokes are
/// several of these. NaN erases: the frame has its record again. Without frames it gives the whole lane back to the
/// host.
struct LaneDrawing
{
    static constexpr std::size_t kMostFrames = 64;

    std::int32_t epoch = 0; ///< of the clip; a drawing on another is dropped
    std::int32_t column = 0;
    std::int64_t first = 0; ///< on the timeline
    std::int32_t count = 0; ///< 0..kMostFrames
    std::array<float, kMostFrames> values{};
};

using DrawingRing = SpscRing<LaneDrawing>;

/// The lanes of a clip as they are heard. A lane follows the host: it records what the host plays while the clip is
/// captured, and a value that departs from the record later holds from there to the clip's end. A lane that the user
/// has drawn keeps what was drawn until the host's value changes from what it was then; what is erased returns to the
/// record of the host.
///
/// Every change is an edit for `send(const LaneEdit&)`, false when it finds no room: then the range is remembered and
/// flush sends it later, as it is by then; no change is lost and none overtakes an older one of its lane.
///
/// Construction allocates; all else belongs to the audio thread and is real-time safe when `send` is. A departure costs
/// 4 bytes per frame to the clip's end.
class LaneMemory
{
public:
    /// Room for a clip of `capacity` frames that is still to be captured.
    explicit LaneMemory(std::int64_t capacity) : lanes(capacity) {}

    /// A clip that exists. Of its drawn lanes the host's first value counts as the one that it was drawn against.
    explicit LaneMemory(LaneTable initial) : lanes(std::move(initial)) {}

    const LaneTable& table() const noexcept { return lanes; }

    void begin(std::int64_t firstFrame) noexcept
    {
        lanes.begin(firstFrame);
        waiting = {};
        isReferenceKnown.reset();
    }
    void capture(const WireLaneValues& host) noexcept { lanes.append(host); }

    /// `frame`, one of the clip's, starts to sound while the host says `host`. True when a lane departs from the
    /// record.
    template <class Send> bool follow(std::int64_t frame, const WireLaneValues& host, Send&& send)
    {
        bool departs = false;
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
        {
            if (lanes.isDrawn(column))
            {
                if (!isReferenceKnown[column])
                    setReference(column, host[column]);
                if (host[column] == reference[column])
                    continue;
                change(column, frame, frame, host[column], false, send);
            }
            if (host[column] != lanes.at(column, frame))
            {
                change(column, frame, lanes.end(), host[column], false, send);
                departs = true;
            }
        }
        return departs;
    }

    /// The user has drawn while the host says `host`.
    template <class Send> void draw(const LaneDrawing& drawing, const WireLaneValues& host, Send&& send)
    {
        if (drawing.column < 0 || static_cast<std::size_t>(drawing.column) >= kWireLaneCount)
            return;
        const auto column = static_cast<std::size_t>(drawing.column);
        const auto count = std::min(static_cast<std::size_t>(std::max(drawing.count, 0)), LaneDrawing::kMostFrames);
        if (count == 0)
        {
            erase(column, lanes.firstFrame(), lanes.end(), send);
            return change(column, drawing.first, drawing.first, 0.0f, false, send);
        }
        for (std::size_t i = 0; i < count;)
        {
            const float value = drawing.values[i];
            const auto isSame = [value](float other)
            { return other == value || (std::isnan(other) && std::isnan(value)); };
            std::size_t next = i + 1;
            while (next < count && isSame(drawing.values[next]))
                ++next;
            const std::int64_t first = drawing.first + static_cast<std::int64_t>(i);
            const std::int64_t end = drawing.first + static_cast<std::int64_t>(next);
            if (std::isnan(value))
                erase(column, first, end, send);
            else
            {
                setReference(column, host[column]);
                change(column, first, end, value, true, send);
            }
            i = next;
        }
    }

    /// Sends what found no room, at most `most` edits. True when nothing is left.
    template <class Send> bool flush(std::size_t most, Send&& send)
    {
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
            while (waiting[column].isSet)
            {
                if (most == 0 || !send(nextWaiting(column)))
                    return false;
                --most;
                Range& range = waiting[column];
                range.first = sentTo;
                range.isSet = range.first < range.end;
            }
        return true;
    }

    bool hasWaiting() const noexcept
    {
        return std::any_of(waiting.begin(), waiting.end(), [](const Range& range) { return range.isSet; });
    }

private:
    /// Frames of a lane whose edits found no room. Set and empty: only the origin has changed.
    struct Range
    {
        bool isSet = false;
        std::int64_t first = 0, end = 0;
    };

    void setReference(std::size_t column, float host) noexcept
    {
        reference[column] = host;
        isReferenceKnown[column] = true;
    }

    /// The frames have their record again, and the lane the origin that it has.
    template <class Send> void erase(std::size_t column, std::int64_t first, std::int64_t end, Send& send)
    {
        end = std::min(end, lanes.end());
        for (std::int64_t frame = std::max(first, lanes.firstFrame()); frame < end;)
        {
            const float value = lanes.recordedAt(column, frame);
            std::int64_t next = frame;
            while (next < end && lanes.recordedAt(column, next) == value && lanes.at(column, next) != value)
                ++next;
            if (next > frame)
                change(column, frame, next, value, lanes.isDrawn(column), send);
            frame = std::max(next, frame + 1);
        }
    }

    template <class Send>
    void change(std::size_t column, std::int64_t first, std::int64_t end, float value, bool isDrawn, Send& send)
    {
        LaneEdit edit;
        edit.column = static_cast<std::int32_t>(column);
        edit.first = std::max(first, lanes.firstFrame());
        edit.end = std::max(edit.first, std::min(end, lanes.end()));
        edit.value = value;
        edit.recorded = isDrawn ? LaneEdit::kAsBefore : value;
        edit.isDrawn = isDrawn;
        edit.revision = lanes.revision() + 1;
        lanes.apply(edit);
        Range& range = waiting[column];
        if (range.isSet)
            include(range, edit);
        else if (!send(edit))
            range = {true, edit.first, edit.end};
    }

    static void include(Range& range, const LaneEdit& edit) noexcept
    {
        if (edit.first == edit.end)
            return;
        if (range.first == range.end)
            range = {true, edit.first, edit.end};
        range.first = std::min(range.first, edit.first);
        range.end = std::max(range.end, edit.end);
    }

    /// The first frames of equal value of a waiting range, up to `sentTo`.
    LaneEdit nextWaiting(std::size_t column) noexcept
    {
        const Range& range = waiting[column];
        LaneEdit edit;
        edit.column = static_cast<std::int32_t>(column);
        edit.first = sentTo = range.first;
        edit.isDrawn = lanes.isDrawn(column);
        edit.revision = lanes.revision();
        if (range.first < range.end)
        {
            edit.value = lanes.at(column, range.first);
            edit.recorded = lanes.recordedAt(column, range.first);
            while (sentTo < range.end && lanes.at(column, sentTo) == edit.value &&
                   lanes.recordedAt(column, sentTo) == edit.recorded)
                ++sentTo;
        }
        edit.end = sentTo;
        return edit;
    }

    LaneTable lanes;
    std::array<Range, kWireLaneCount> waiting{};
    std::int64_t sentTo = 0;
    std::array<float, kWireLaneCount> reference{}; ///< of drawn lanes: the host's value when they were drawn
    std::bitset<kWireLaneCount> isReferenceKnown;
};
} // namespace demon
