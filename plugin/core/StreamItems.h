// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "SpscRing.h"
#include "WireLanes.h"

/// What passes between the audio thread and the link thread.
namespace demon
{
/// From the audio thread to the engine.
struct FeedItem
{
    enum class Kind
    {
        begin, ///< `epoch` starts at sample `start`
        frame, ///< `audio` and `lanes` of `frame`
        end,   ///< `frame` is the first one that `epoch` does not have
        drop   ///< nothing of `epoch` and of those before is wanted any more
    };
    Kind kind = Kind::frame;
    std::int32_t epoch = 0;
    std::int64_t frame = 0;
    std::int64_t start = 0;
    bool offline = false;
    WireLaneValues lanes{};
    std::vector<float> audio; ///< [2, frame length]
};

/// From the engine to the audio thread, in the order of (epoch, frame).
struct WetFrame
{
    std::int32_t epoch = 0;
    std::int64_t frame = 0;
    std::vector<float> audio; ///< [2, frame length]
};

using FeedRing = SpscRing<FeedItem>;
using WetRing = SpscRing<WetFrame>;

/// Numbers for the user, written by the audio thread, read by any.
struct Telemetry
{
    std::atomic<std::int64_t> lateFrames{0};       ///< frames replaced because no window had arrived
    std::atomic<std::int64_t> nonFiniteSamples{0}; ///< NaN or infinity in the input, replaced by 0
    std::atomic<std::int64_t> feedOverflows{0};    ///< epochs broken because the link thread did not keep up
    std::atomic<bool> timedOut{false};             ///< an offline wait was given up; stays until acknowledged
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
