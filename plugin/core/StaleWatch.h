// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "FrameHash.h"
#include "FrozenAudio.h"

namespace demon
{
/// Compares the input that plays now with the one that a frozen result was made from, frame by frame.
///
/// A frame is judged when all of its samples have passed without a break; its lanes are those given with its first
/// sample, as when it was fed. The result depends on nothing else, so not on block sizes.
///
/// Threads: construction allocates. append belongs to the audio thread and is real-time safe; the rest is wait-free on
/// any thread.
class StaleWatch
{
public:
    enum class State : std::uint8_t
    {
        unknown, ///< not heard yet, or not comparable
        same,
        stale
    };

    explicit StaleWatch(FrozenAudio frozen)
        : take(std::move(frozen)), states(std::make_unique<std::atomic<State>[]>(static_cast<std::size_t>(take.frames)))
    {
        for (std::int64_t i = 0; i < take.frames; ++i)
            states[static_cast<std::size_t>(i)].store(State::unknown, std::memory_order_relaxed);
    }

    /// `count` samples of dry input that begin at `position` on the timeline, at the result's rate.
    void append(std::int64_t position, const float* left, const float* right, std::int64_t count,
                const WireLaneValues& laneValues) noexcept
    {
        for (std::int64_t done = 0; done < count;)
        {
            const int offset = take.grid.offsetOf(position + done);
            const std::int64_t run = std::min<std::int64_t>(count - done, take.grid.length - offset);
            appendRun(take.grid.frameOf(position + done), offset, left + done, right + done, static_cast<int>(run),
                      laneValues);
            done += run;
        }
    }

    State state(std::int64_t frame) const noexcept
    {
        return take.hasFrame(frame) ? stateOf(frame).load(std::memory_order_relaxed) : State::unknown;
    }

    /// Frames that are stale now.
    std::int64_t staleFrames() const noexcept { return stale.load(std::memory_order_relaxed); }

    const FrozenAudio& frozen() const noexcept { return take; }

private:
    void appendRun(std::int64_t frame, int offset, const float* left, const float* right, int count,
                   const WireLaneValues& laneValues) noexcept
    {
        if (offset == 0)
        {
            hasher.restart();
            lanes = take.lanes.pick(laneValues);
            current = frame;
            filled = 0;
        }
        if (frame != current || offset != filled)
        {
            filled = -1; // the rest of a frame whose beginning has not been heard
            return;
        }
        hasher.append(left, right, static_cast<std::size_t>(count));
        filled += count;
        if (filled == take.grid.length)
            judge(frame);
    }

    void judge(std::int64_t frame) noexcept
    {
        const std::uint64_t recorded = take.inputHash(frame);
        if (recorded == 0)
            return;
        const State now = hasher.finish(lanes.data(), take.lanes.size()) == recorded ? State::same : State::stale;
        const State before = stateOf(frame).exchange(now, std::memory_order_relaxed);
        stale.fetch_add((now == State::stale ? 1 : 0) - (before == State::stale ? 1 : 0), std::memory_order_relaxed);
    }

    std::atomic<State>& stateOf(std::int64_t frame) const noexcept
    {
        return states[static_cast<std::size_t>(frame - take.firstFrame)];
    }

    const FrozenAudio take;
    const std::unique_ptr<std::atomic<State>[]> states;
    std::atomic<std::int64_t> stale{0};
    FrameHasher hasher;       ///< audio thread, as all that follows
    WireLaneValues lanes{};   ///< of the frame that is being heard
    std::int64_t current = 0; ///< that frame
    int filled = -1;          ///< samples of it, -1: none
};
} // namespace demon
