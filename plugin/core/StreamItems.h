// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "FrameNotes.h"
#include "Meters.h"
#include "SpscRing.h"
#include "WireLanes.h"
#include "demon/timebase.h"

/// What passes between the audio thread and the link thread.
namespace demon
{
/// From the audio thread to the engine.
struct FeedItem
{
    enum class Kind
    {
        begin,   ///< `epoch` starts at sample `start`
        frame,   ///< `audio` and `lanes` of `frame`
        end,     ///< `frame` is the first one that `epoch` does not have
        drop,    ///< nothing of `epoch` and of those before is wanted any more
        release, ///< nothing of `epoch` is wanted any more; others are
        commit   ///< `epoch` is the clip of the loop epoch `of`, with its lanes after `edits` edits, generated once
    };
    Kind kind = Kind::frame;
    std::int32_t epoch = 0;
    std::int64_t frame = 0;
    std::int64_t start = 0;
    bool offline = false;
    bool loop = false;       ///< begin: a clip, to be regenerated until it is released
    std::int32_t of = 0;     ///< commit
    std::uint64_t edits = 0; ///< commit: pushed before it, since the loop was made
    WireLaneValues lanes{};
    std::vector<float> audio; ///< [2, frame length]
};

/// From the engine to the audio thread: in the order of (epoch, frame), but a loop epoch's in the order of arrival,
/// each as often as there are takes of it.
struct WetFrame
{
    std::int32_t epoch = 0;
    std::int64_t frame = 0;
    std::vector<float> audio; ///< [2, frame length]
    std::int32_t take = 0;    ///< of a loop epoch: number of the generation, from 1; else 0
};

using FeedRing = SpscRing<FeedItem>;
using WetRing = SpscRing<WetFrame>;

/// A slot of either ring, with room for a frame of audio.
template <class Item> Item silentItem(FrameGrid grid)
{
    Item item;
    item.audio.assign(2 * static_cast<std::size_t>(grid.length), 0.0f);
    return item;
}

/// What the audio thread tells the user: numbers that any thread may read, levels, and notes for one thread.
struct Telemetry
{
    static constexpr std::size_t kMostNotes = 256; // ten seconds

    std::atomic<std::int64_t> lateFrames{0};       ///< frames replaced because no window had arrived
    std::atomic<std::int64_t> nonFiniteSamples{0}; ///< NaN or infinity in the input, replaced by 0
    std::atomic<std::int64_t> feedOverflows{0};    ///< epochs broken because the link thread did not keep up
    std::atomic<bool> timedOut{false};             ///< an offline wait was given up; stays until acknowledged
    std::atomic<std::int64_t> waitingFrames{0};    ///< loop: dry frames before the engine had delivered anything
    std::atomic<bool> noClip{false};               ///< loop: the last bounce had no clip to play
    std::atomic<bool> commitStale{false};          ///< loop: lanes have changed since the last bounce: bounce again
    std::atomic<float> suggestedMatchDb{0.0f};     ///< gain that would make the wet signal as loud as the dry one
    Meters meters;
    FrameNotes notes{kMostNotes}; ///< consumer: whoever shows the timeline
};

/// Where the output stands: written by the audio thread, read by the link thread.
class OutputCursor
{
public:
    struct Place
    {
        std::int32_t epoch = 0; ///< 0: unknown
        std::int64_t frame = 0;
    };

    /// Audio thread. Wait-free.
    void publish(std::int32_t newEpoch, std::int64_t newFrame) noexcept
    {
        if (newEpoch != epoch.load(std::memory_order_relaxed))
            epoch.store(0, std::memory_order_seq_cst);
        frame.store(newFrame, std::memory_order_seq_cst);
        epoch.store(newEpoch, std::memory_order_seq_cst);
    }

    /// Link thread. Wait-free; epoch 0 while a new epoch is being published.
    Place read() const noexcept
    {
        const std::int32_t before = epoch.load(std::memory_order_seq_cst);
        const std::int64_t at = frame.load(std::memory_order_seq_cst);
        return before == epoch.load(std::memory_order_seq_cst) ? Place{before, at} : Place{};
    }

private:
    std::atomic<std::int32_t> epoch{0};
    std::atomic<std::int64_t> frame{0};
};
} // namespace demon
