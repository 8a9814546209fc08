// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "core/WireLanes.h"
#include "editor/Models.h"

namespace demon
{
/// What has sounded, frame by frame, for the editor's timeline. Lives in the processor, so that an editor that opens
/// late has it at once. Message thread only: whoever drains the audio thread's notes adds them here.
class TimelineHistory : public TimelineModel
{
public:
    static constexpr std::int64_t kKept = 240 * 25 + 1; ///< frames

    struct Note
    {
        std::int64_t frame = 0;
        TimelineFrame picture; ///< without the lane
        LaneValues lanes{};
    };

    void add(const Note& note)
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
            const Note& note = slots[slotOf(frame)];
            frames[i] = note.frame == frame ? note.picture : TimelineFrame{};
            if (note.frame == frame)
                frames[i].lane = note.lanes[lane];
            if (static_cast<double>(frame) > place && frame < fed)
                frames[i].state = frame < ready ? WindowState::ready : WindowState::inFlight;
        }
    }

private:
    static Note empty()
    {
        Note note;
        note.frame = std::numeric_limits<std::int64_t>::min();
        return note;
    }
    static std::size_t slotOf(std::int64_t frame)
    {
        return static_cast<std::size_t>(((frame % kKept) + kKept) % kKept); // time before zero exists
    }

    std::vector<Note> slots = std::vector<Note>(static_cast<std::size_t>(kKept), empty());
    double place = 0.0;
    std::int64_t ready = 0, fed = 0;
    std::int64_t changes = 0;
};
} // namespace demon
