// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

/// What the audio thread does when a ring is full or a window is missing. The stream is compiled once per policy, so
/// the real-time version contains no waiting code at all.
namespace demon
{
/// Nanoseconds of the steady clock. No system call on Linux (vDSO), yet not for the real-time path.
inline std::int64_t steadyNanoseconds()
{
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/// What an offline wait goes by. Written by the link thread, read by any; wait-free.
struct EngineSigns
{
    static constexpr std::int32_t kEveryEpoch = -1;

    std::atomic<std::int64_t> progressAt{0};    ///< steady nanoseconds of the last window, progress or welcome
    std::atomic<std::int32_t> hopelessEpoch{0}; ///< waiting for its windows is of no use: kEveryEpoch, one, or 0
};

/// Real time: never wait.
struct NeverWait
{
    static constexpr bool kWaits = false;
    static constexpr bool forRoom() noexcept { return false; }
    static constexpr bool forWindow(std::int32_t) noexcept { return false; }
    static constexpr void arrived() noexcept {}
};

/// A bounce: wait as long as the engine shows life, and not at all for what it has refused. May block; offline only.
class OfflineWait
{
public:
    static constexpr bool kWaits = true;

    /// Gives up when for `timeoutNanoseconds` of waiting there was no progress.
    OfflineWait(const EngineSigns& engineSigns, std::int64_t timeoutNanoseconds)
        : signs(engineSigns), timeout(timeoutNanoseconds)
    {
    }

    bool forRoom() { return pause(); }
    bool forWindow(std::int32_t epoch)
    {
        const std::int32_t hopeless = signs.hopelessEpoch.load(std::memory_order_acquire);
        return hopeless != EngineSigns::kEveryEpoch && hopeless != epoch && pause();
    }

    /// What was waited for is there: the next wait starts afresh.
    void arrived() noexcept { waitStart = 0; }

private:
    bool pause()
    {
        const std::int64_t now = steadyNanoseconds();
        if (waitStart == 0)
            waitStart = now;
        if (now - std::max(waitStart, signs.progressAt.load(std::memory_order_acquire)) > timeout)
            return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return true;
    }

    const EngineSigns& signs;
    std::int64_t timeout;
    std::int64_t waitStart = 0;
};
} // namespace demon
