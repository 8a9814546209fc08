// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "SpscRing.h"

namespace demon
{
/// Brings buffers that the audio thread no longer needs to a thread that may free them.
class SpentBuffers
{
public:
    explicit SpentBuffers(std::size_t capacity) : ring(capacity) {}

    /// Audio thread, wait-free: takes `buffer` away; false, and nothing has happened, when there is no room.
    bool give(std::vector<float>& buffer) noexcept
    {
        return ring.tryPush([&](std::vector<float>& slot) { slot.swap(buffer); });
    }

    /// One other thread: frees what has come. True when there was something.
    bool freeAll()
    {
        bool any = false;
        while (ring.tryPop([](std::vector<float>& slot) { std::vector<float>().swap(slot); }))
            any = true;
        return any;
    }

private:
    SpscRing<std::vector<float>> ring;
};

/// The finished audio of a clip, frame by frame: for each frame the audio that came last, and for a few the audio that
/// it replaced (`before`), where a crossfade between takes may need it: for a frame whose predecessor belongs to
/// another take, and for those that sound now and next.
///
/// Memory: a frame costs 64 bytes from construction on, and 8 * frame length bytes (15 kB at 48 kHz) for each buffer
/// that was put into it; 60 s at 48 kHz are 23 MB. The buffers are the sender's: they are swapped in, never copied, and
/// the one that is replaced goes back in exchange.
///
/// Construction allocates, and frees what is in it at the end; all else belongs to the audio thread and is real-time
/// safe.
class ClipCache
{
public:
    /// Room for `capacity` frames.
    explicit ClipCache(std::int64_t capacity) : entries(static_cast<std::size_t>(capacity)) {}

    struct Found
    {
        const float* audio = nullptr; ///< [2, frame length], or null
        std::int32_t take = 0;
        const float* before = nullptr; ///< likewise, or null
        std::int32_t beforeTake = 0;
        explicit operator bool() const noexcept { return audio != nullptr; }
    };

    /// The cache is about the frames [newFirst, newFirst + count), `count` <= capacity, from now on.
    void place(std::int64_t newFirst, std::int64_t count) noexcept
    {
        first = newFirst;
        frames = count;
    }

    bool contains(std::int64_t frame) const noexcept { return frame >= first && frame < first + frames; }
    bool isEmpty() const noexcept { return !hasAny; } ///< nothing was ever put in

    /// `frame` as it is now. A frame outside is not there.
    Found at(std::int64_t frame) const noexcept
    {
        if (!contains(frame))
            return {};
        const Entry& entry = entries[indexOf(frame)];
        return {dataOf(entry.newest), entry.newest.take, dataOf(entry.before), entry.before.take};
    }

    /// Puts `audio` in the place of `frame`, and the buffer that is no longer needed there into `audio`. A frame
    /// outside is ignored. `soundsSoon`: it is the one that sounds now, or the next.
    void put(std::int64_t frame, std::int32_t take, std::vector<float>& audio, bool soundsSoon,
             SpentBuffers& spent) noexcept
    {
        if (!contains(frame))
            return;
        hasAny = true;
        nextToGive = 0;
        Entry& entry = entries[indexOf(frame)];
        const std::int32_t oldTake = std::exchange(entry.newest.take, take);
        entry.newest.audio.swap(audio);
        if (audio.empty())
            return; // the frame is new
        if (soundsSoon || startsRun(frame))
        {
            entry.before.take = oldTake;
            entry.before.audio.swap(audio);
        }
        else if (!entry.before.audio.empty() && spent.give(entry.before.audio))
        {
            entry.before.take = 0;
        }
    }

    /// Gives at most `most` buffers back, in the order of frames; true when none is left. Then it costs nothing to ask
    /// again: a cache may have room for an hour.
    bool giveBack(std::size_t most, SpentBuffers& spent) noexcept
    {
        if (!hasAny)
            return true;
        for (; nextToGive < entries.size(); ++nextToGive)
            for (Buffer* buffer : {&entries[nextToGive].newest, &entries[nextToGive].before})
                if (!buffer->audio.empty() && (most-- == 0 || !spent.give(buffer->audio)))
                    return false;
        return true;
    }

private:
    struct Buffer
    {
        std::int32_t take = 0;
        std::vector<float> audio; ///< [2, frame length], or empty
    };
    struct Entry
    {
        Buffer newest, before;
    };

    static const float* dataOf(const Buffer& buffer) noexcept
    {
        return buffer.audio.empty() ? nullptr : buffer.audio.data();
    }

    std::size_t indexOf(std::int64_t frame) const noexcept { return static_cast<std::size_t>(frame - first); }

    /// The frame that sounds before `frame` belongs to another take. A clip may cycle: the last one precedes the first.
    bool startsRun(std::int64_t frame) const noexcept
    {
        const std::int64_t previous = frame == first ? first + frames - 1 : frame - 1;
        return entries[indexOf(previous)].newest.take != entries[indexOf(frame)].newest.take;
    }

    std::int64_t first = 0, frames = 0;
    bool hasAny = false;
    std::size_t nextToGive = 0;
    std::vector<Entry> entries;
};
} // namespace demon
