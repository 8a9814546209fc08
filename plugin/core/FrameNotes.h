// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "SpscRing.h"
#include "WireLanes.h"

namespace demon
{
/// What a frame of output was made of.
enum class FrameStatus
{
    dry,     ///< the dry signal, as it should be: outside the clip, while it is captured, without a clip
    waiting, ///< the dry signal, until the engine has delivered for the first time
    late,    ///< the replacement, because the window was not there when the frame began
    ready,   ///< a window, or a frozen result
    stale    ///< a frozen result whose input is not what it was
};

/// The smallest and the largest sample of a stretch of audio, both channels taken together.
struct Peaks
{
    float lowest = 0.0f, highest = 0.0f;

    void include(std::array<const float*, 2> audio, std::size_t count) noexcept
    {
        for (const float* channel : audio)
            for (std::size_t i = 0; i < count; ++i)
            {
                lowest = std::min(lowest, channel[i]);
                highest = std::max(highest, channel[i]);
            }
    }
};

/// One finished frame of output, for the editor's timeline.
struct FrameNote
{
    std::int32_t epoch = 0; ///< that `frame` belongs to; in a loop the clip's, or 0
    std::int64_t frame = 0; ///< on the timeline
    FrameStatus status = FrameStatus::dry;
    std::int32_t take = 0;
    LaneValues lanes{}; ///< those that act on this frame
    Peaks input, output;
};

/// Producer: audio thread; consumer: one other. A note for which there is no room is dropped.
using FrameNotes = SpscRing<FrameNote>;

/// Puts the notes together from the input of a frame and from its output, which sounds a latency later. Positions are
/// samples since the last restart; a frame's input is taken before its output.
///
/// Construction allocates; all else belongs to the audio thread and is real-time safe.
class NoteTaker
{
public:
    /// `mostFrames`: begun, and not yet finished, at any time; a frame beyond gets no note.
    NoteTaker(FrameNotes& finishedNotes, std::size_t mostFrames) : finished(finishedNotes), pending(mostFrames) {}

    /// Forgets what is begun.
    void restart() noexcept
    {
        first = used = 0;
        isOpen = false;
    }

    /// Input of a frame begins, at `position`.
    void begin(std::int64_t position, std::int32_t epoch, std::int64_t frame, const LaneValues& lanes) noexcept
    {
        isOpen = used < pending.size();
        if (!isOpen)
            return;
        Pending& entry = pending[(first + used++) % pending.size()];
        entry = {};
        entry.begin = entry.end = position;
        entry.note.epoch = epoch;
        entry.note.frame = frame;
        entry.note.lanes = lanes;
    }

    /// More input of the frame that has begun last.
    void hear(std::array<const float*, 2> audio, std::size_t count) noexcept
    {
        if (!isOpen)
            return;
        Pending& entry = pending[(first + used - 1) % pending.size()];
        entry.note.input.include(audio, count);
        entry.end += static_cast<std::int64_t>(count);
    }

    /// The input of the frame that has begun last is over.
    void close() noexcept
    {
        isOpen = false;
        if (used > 0 && pending[first].played >= pending[first].end)
            finish();
    }

    /// Output from `position` on, all of one frame. The status is that of the frame's first samples, unless one that
    /// comes later `corrects` it.
    void play(std::int64_t position, FrameStatus status, std::int32_t take, std::array<const float*, 2> audio,
              std::size_t count, bool corrects = false) noexcept
    {
        while (used > 0 && pending[first].end <= position && !isStillHeard())
            finish();
        if (used == 0 || position < pending[first].begin)
            return;
        Pending& entry = pending[first];
        if (position == entry.begin || corrects)
            entry.note.status = status;
        entry.note.take = take;
        entry.note.output.include(audio, count);
        entry.played = position + static_cast<std::int64_t>(count);
        if (entry.played >= entry.end && !isStillHeard())
            finish();
    }

private:
    struct Pending
    {
        FrameNote note;
        std::int64_t begin = 0, end = 0; ///< of its input
        std::int64_t played = 0;         ///< end of its output so far
    };

    /// The frame that sounds is the one whose input is not over.
    bool isStillHeard() const noexcept { return isOpen && used == 1; }

    void finish() noexcept
    {
        const Pending& entry = pending[first];
        if (entry.played > entry.begin)
            finished.tryPush([&](FrameNote& slot) { slot = entry.note; });
        first = (first + 1) % pending.size();
        --used;
    }

    FrameNotes& finished;
    std::vector<Pending> pending; ///< a queue: `used` from `first` on
    std::size_t first = 0, used = 0;
    bool isOpen = false;
};
} // namespace demon
