// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstdint>

#include "WireLanes.h"

namespace demon
{
/// What plays in place of a window that has not arrived in time.
enum class LatePolicy
{
    dry,
    silence
};

/// What a loop plays before and after its clip.
enum class OutsidePolicy
{
    dry,
    cycle ///< the clip again and again, in both directions of time
};

/// The controls of one block.
struct Controls
{
    LaneValues lanes{};
    bool bypassed = false;
    LatePolicy latePolicy = LatePolicy::dry;
    OutsidePolicy outside = OutsidePolicy::dry;
    bool limit = false;        ///< the safety limiter, in real time
    bool limitOffline = false; ///< and in a bounce, when `limit` is on
    float matchGainDb = 0.0f;  ///< on the wet signal, at most LoudnessMatch::kMostDb either way
};

/// Gives every epoch of a plugin instance its number, from 1, increasing. Any thread, wait-free; outlives the players.
class EpochNumbers
{
public:
    std::int32_t next() noexcept { return 1 + last.fetch_add(1, std::memory_order_relaxed); }
    std::int32_t newest() const noexcept { return last.load(std::memory_order_relaxed); }

private:
    std::atomic<std::int32_t> last{0};
};

/// What a block was, for the probe.
struct BlockReport
{
    std::int32_t epoch = 0;
    std::int64_t position = 0;
    bool late = false;   ///< part of the output had no window in time
    bool hasWet = false; ///< part of the output came from a window
};
} // namespace demon
