// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "Controls.h"
#include "StreamItems.h"
#include "demon/timebase.h"

namespace demon
{
/// Cuts the input of an epoch into the frames of the absolute grid and hands them to the link thread.
///
/// A frame's lanes are those of the block that contains its first sample; an epoch that starts inside a frame has zeros
/// before its start and takes the first block's lanes. `Waiter::forRoom()` is asked when the ring is full: true to try
/// again, false to give up. Audio thread only; real-time safe when the waiter is.
class FrameAssembler
{
public:
    FrameAssembler(FeedRing& feedRing, FrameGrid frameGrid)
        : ring(feedRing), grid(frameGrid), audio(2 * static_cast<std::size_t>(frameGrid.length), 0.0f)
    {
    }

    bool isOpen() const noexcept { return epoch != 0; }
    std::int32_t currentEpoch() const noexcept { return epoch; }

    struct Start
    {
        std::int64_t sample = 0;
        bool offline = false;
        bool loop = false;
    };

    /// Starts the next epoch. False, and no number is used, when the ring is full.
    template <class Waiter>
    bool begin(EpochNumbers& epochs, const Start& start, const LaneValues& values, Waiter& waiter)
    {
        const auto fill = [&](FeedItem& item)
        {
            item.kind = FeedItem::Kind::begin;
            item.epoch = epoch = epochs.next();
            item.start = start.sample;
            item.offline = start.offline;
            item.loop = start.loop;
        };
        if (!push(fill, waiter))
            return false;
        frame = grid.frameOf(start.sample);
        filled = static_cast<std::size_t>(grid.offsetOf(start.sample));
        std::fill(audio.begin(), audio.end(), 0.0f);
        lanes = wireLanesOf(values);
        return true;
    }

    /// Appends at most one frame's rest of samples; `count` must not pass the frame's end. False when a finished frame
    /// found no room: the epoch is then broken and closed.
    template <class Waiter>
    bool append(const float* left, const float* right, std::size_t count, const LaneValues& values, Waiter& waiter)
    {
        if (filled == 0)
            lanes = wireLanesOf(values);
        std::copy_n(left, count, channel(0) + filled);
        std::copy_n(right, count, channel(1) + filled);
        filled += count;
        return filled < length() || flush(waiter);
    }

    std::size_t untilFrameEnd() const noexcept { return length() - filled; }
    std::int64_t currentFrame() const noexcept { return frame; }          ///< the one being filled
    const WireLaneValues& currentLanes() const noexcept { return lanes; } ///< of the frame that got samples last

    /// Fills up with zeros, and sends, what is begun of the last frame. False as in append.
    template <class Waiter> bool fillUp(Waiter& waiter)
    {
        if (!isOpen() || filled == 0)
            return true;
        std::fill(channel(0) + filled, channel(0) + length(), 0.0f);
        std::fill(channel(1) + filled, channel(1) + length(), 0.0f);
        return flush(waiter);
    }

    /// Ends the epoch: what is begun of the last frame is filled up with zeros and sent.
    template <class Waiter> void end(Waiter& waiter)
    {
        if (!isOpen() || !fillUp(waiter))
            return;
        const auto fill = [&](FeedItem& item)
        {
            item.kind = FeedItem::Kind::end;
            item.epoch = epoch;
            item.frame = frame;
        };
        push(fill, waiter); // without it the next begin ends the epoch
        epoch = 0;
    }

    /// Closes the epoch without a word.
    void abandon() noexcept { epoch = 0; }

private:
    std::size_t length() const noexcept { return static_cast<std::size_t>(grid.length); }
    float* channel(std::size_t index) noexcept { return audio.data() + index * length(); }

    template <class Waiter> bool flush(Waiter& waiter)
    {
        const auto fill = [&](FeedItem& item)
        {
            item.kind = FeedItem::Kind::frame;
            item.epoch = epoch;
            item.frame = frame;
            item.lanes = lanes;
            std::copy(audio.begin(), audio.end(), item.audio.begin());
        };
        if (!push(fill, waiter))
        {
            epoch = 0;
            return false;
        }
        ++frame;
        filled = 0;
        return true;
    }

    template <class Fill, class Waiter> bool push(const Fill& fill, Waiter& waiter)
    {
        while (!ring.tryPush(fill))
            if (!waiter.forRoom())
                return false;
        return true;
    }

    FeedRing& ring;
    FrameGrid grid;
    std::int32_t epoch = 0;
    std::int64_t frame = 0; ///< the one being filled
    std::size_t filled = 0; ///< samples of it
    WireLaneValues lanes{};
    std::vector<float> audio; ///< [2, frame length]
};
} // namespace demon
