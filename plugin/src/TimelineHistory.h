// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "core/FrameNotes.h"
#include "editor/Models.h"

namespace demon
{
/// What has sounded, frame by frame, for the editor's timeline. Lives in the processor, so that an editor that opens
/// late has it at once. Message thread only: whoever drains the audio thread's notes adds them here.
class TimelineHistory : public TimelineModel
{
public:
    static constexpr std::int64_t kKept = 240 * 25 + 1; ///< frames

    void add(const FrameNote& note)
    {
        slots[slotOf(note.frame)] = note;
        place = static_cast<double>(note.frame);
        ++changes;
    }
    void setPlayhead(double frame) { place = frame; }

    /// Beyond the playhead: frames before `readyTo` have arrived, those before `fedTo` are being made.
    void setAhead(std::int64_t readyTo, std::int64_t fedTo)
    {
        if (readyTo == ready && fedTo == fed)
            return;
        ready = readyTo;
        fed = fedTo;
        ++changes;
    }
    void clear()
    {
        slots.assign(slots.size(), empty());
        ++changes;
    }

    double playhead() const override { return place; }
    std::int64_t revision() const override { return changes; }
    void read(std::int64_t first, std::size_t lane, std::vector<TimelineFrame>& frames) const override
    {
        for (std::size_t i = 0; i < frames.size(); ++i)
        {
            const std::int64_t frame = first + static_cast<std::int64_t>(i);
            const FrameNote& note = slots[slotOf(frame)];
            frames[i] = note.frame == frame ? pictureOf(note, lane) : TimelineFrame{};
            if (static_cast<double>(frame) > place && frame < fed)
                frames[i].state = frame < ready ? WindowState::ready : WindowState::inFlight;
        }
    }

private:
    static WindowState stateOf(FrameStatus status)
    {
        switch (status)
        {
        case FrameStatus::waiting:
            return WindowState::waiting;
        case FrameStatus::late:
            return WindowState::late;
        case FrameStatus::ready:
            return WindowState::ready;
        case FrameStatus::stale:
            return WindowState::stale;
        case FrameStatus::dry:
            break;
        }
        return WindowState::dry;
    }
    static TimelineFrame pictureOf(const FrameNote& note, std::size_t lane)
    {
        TimelineFrame picture;
        picture.state = stateOf(note.status);
        picture.sourceLow = note.input.lowest;
        picture.sourceHigh = note.input.highest;
        picture.generatedLow = note.output.lowest;
        picture.generatedHigh = note.output.highest;
        picture.lane = note.lanes[lane];
        return picture;
    }
    static FrameNote empty()
    {
        FrameNote note;
        note.frame = std::numeric_limits<std::int64_t>::min();
        return note;
    }
    static std::size_t slotOf(std::int64_t frame)
    {
        return static_cast<std::size_t>(((frame % kKept) + kKept) % kKept); // time before zero exists
    }

    std::vector<FrameNote> slots = std::vector<FrameNote>(static_cast<std::size_t>(kKept), empty());
    double place = 0.0;
    std::int64_t ready = 0, fed = 0;
    std::int64_t changes = 0;
};
} // namespace demon
