// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "core/Loop.h"
#include "core/Stream.h"

namespace demon
{
/// The link thread's end of a player, whichever it is: a Stream or a Loop. Keeps it alive.
class PlayerPort
{
public:
    PlayerPort() = default;
    explicit PlayerPort(std::shared_ptr<Stream> player) : stream(std::move(player)) {}
    explicit PlayerPort(std::shared_ptr<Loop> player) : loop(std::move(player)) {}

    explicit operator bool() const { return stream != nullptr || loop != nullptr; }
    bool isLoop() const { return loop != nullptr; }
    int rate() const { return loop != nullptr ? loop->rate : stream->rate; }
    int latencyFrames() const { return loop != nullptr ? 0 : stream->latencyFrames; }
    OutputCursor::Place output() const { return (loop != nullptr ? loop->cursor : stream->cursor).read(); }

    /// Calls onItem(const FeedItem&) and onEdit(const LaneEdit&) for what the audio thread has sent, in the order in
    /// which it counts. True when there was something.
    template <class OnItem, class OnEdit> bool takeFeed(OnItem&& onItem, OnEdit&& onEdit)
    {
        if (loop != nullptr)
        {
            loop->spent.freeAll();
            return loop->feed.take(onItem, onEdit);
        }
        bool any = false;
        while (stream->feedRing.tryPop([&](const FeedItem& item) { onItem(item); }))
            any = true;
        return any;
    }

    /// Hands a frame over by swapping its audio; false when there is no room now.
    bool push(WetFrame& frame)
    {
        return (loop != nullptr ? loop->wetRing : stream->wetRing)
            .tryPush(
                [&](WetFrame& slot)
                {
                    slot.epoch = frame.epoch;
                    slot.frame = frame.frame;
                    slot.take = frame.take;
                    slot.audio.swap(frame.audio); // a stream's are of the same size: nothing is copied or freed there
                });
    }

private:
    std::shared_ptr<Stream> stream;
    std::shared_ptr<Loop> loop;
};
} // namespace demon
