// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "core/StreamItems.h"
#include "demon/messages.h"
#include "demon/timebase.h"

namespace demon
{
/// What the link keeps of one epoch: the frames that the engine may need (again), and how far either side has come.
/// Link thread only.
class EpochRecord
{
public:
    static constexpr std::size_t kMaxKeptFrames = 3000; ///< two minutes; beyond it the oldest are given up
    static constexpr std::int64_t kFramesPerFeed = 25;

    EpochRecord(const FeedItem& begin, FrameGrid frameGrid)
        : id(begin.epoch), start(begin.start), offline(begin.offline), grid(frameGrid),
          firstFrame(frameGrid.frameOf(begin.start)), wanted(firstFrame), nextToSend(firstFrame), keptFrom(firstFrame)
    {
    }

    const std::int32_t id;
    const std::int64_t start; ///< sample
    const bool offline;
    const FrameGrid grid;
    const std::int64_t firstFrame;

    bool hasBegun = false;           ///< `begin` was sent on this connection
    bool endSent = false;            ///< `end` was sent on this connection
    std::optional<std::int64_t> end; ///< first frame that does not exist, once known
    std::int64_t wanted;             ///< first frame whose audio is wanted and has not arrived
    std::int64_t nextToSend;         ///< first frame that was not sent on this connection
    std::int64_t lastExpected = 0;   ///< of the last pong
    std::int64_t expectedMovedAt = 0;
    int refusals = 0;    ///< E_EPOCH answers
    bool isLost = false; ///< cannot be resumed: a frame that the engine needs was given up

    /// The frame after the newest one.
    std::int64_t keptEnd() const { return keptFrom + static_cast<std::int64_t>(frames.size()); }
    std::int64_t firstKept() const { return keptFrom; }
    bool isDelivered() const { return end && wanted >= *end; }
    bool hasFeed() const { return nextToSend < keptEnd(); }

    /// Takes the next frame. True when an older one had to be given up for it.
    bool append(const FeedItem& item)
    {
        frames.push_back({item.audio, item.lanes});
        if (frames.size() <= kMaxKeptFrames)
            return false;
        frames.pop_front();
        ++keptFrom;
        nextToSend = std::max(nextToSend, keptFrom);
        return true;
    }

    /// Forgets the frames before `frame`, as far as they were sent on this connection or will not be needed.
    void forgetBefore(std::int64_t frame)
    {
        const std::int64_t limit = hasBegun ? std::min(frame, nextToSend) : frame;
        for (; keptFrom < limit && !frames.empty(); ++keptFrom)
            frames.pop_front();
    }

    /// The first frame whose audio can still be had from an engine that needs the `retain` frames before it.
    std::int64_t firstResumable(std::int64_t retain) const
    {
        return keptFrom > firstFrame ? keptFrom + retain : firstFrame;
    }

    /// The message that starts, or resumes, the epoch at `wanted`, which must not lie before firstResumable(); sending
    /// continues where the engine needs it.
    Begin makeBegin(std::int64_t retain)
    {
        nextToSend = std::max(firstFrame, wanted - retain);
        hasBegun = true;
        endSent = false;
        return {id, "stream", start, nextToSend, wanted, offline};
    }

    /// The next frames to send. Needs hasFeed().
    Feed takeFeed()
    {
        Feed feed;
        feed.epoch = id;
        feed.frame = nextToSend;
        feed.count = std::min(kFramesPerFeed, keptEnd() - nextToSend);
        const auto first = static_cast<std::size_t>(nextToSend - keptFrom);
        const auto count = static_cast<std::size_t>(feed.count);
        for (std::size_t channel = 0; channel < 2; ++channel)
            for (std::size_t i = first; i < first + count; ++i)
            {
                const float* samples = frames[i].audio.data() + channel * static_cast<std::size_t>(grid.length);
                feed.audio.insert(feed.audio.end(), samples, samples + grid.length);
            }
        for (std::size_t i = first; i < first + count; ++i)
            feed.lanes.insert(feed.lanes.end(), frames[i].lanes.begin(), frames[i].lanes.end());
        nextToSend += feed.count;
        return feed;
    }

    /// Sends again from `frame`, or from the oldest one kept.
    void rewind(std::int64_t frame)
    {
        nextToSend = std::min(nextToSend, std::max(frame, keptFrom));
        endSent = false;
    }

private:
    struct KeptFrame
    {
        std::vector<float> audio; ///< [2, frame length]
        WireLaneValues lanes;
    };

    std::int64_t keptFrom;
    std::deque<KeptFrame> frames;
};
} // namespace demon
