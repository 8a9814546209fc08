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

/// Real time: never wait.
struct NeverWait
{
    static constexpr bool kWaits = false;
    static constexpr bool forRoom() noexcept { return false; }
    static constexpr bool forWindow() noexcept { return false; }
    static constexpr void arrived() noexcept {}
};

/// A bounce: wait as long as the engine shows life. May block; offline only.
class OfflineWait
{
public:
    static constexpr bool kWaits = true;

    /// Gives up when for `timeoutNanoseconds` of waiting `lastProgress` (steady nanoseconds) has not moved.
    OfflineWait(const std::atomic<std::int64_t>& lastProgress, std::int64_t timeoutNanoseconds)
        : progress(lastProgress), timeout(timeoutNanoseconds)
    {
    }

    bool forRoom() { return pause(); }
    bool forWindow() { return pause(); }

    /// What was waited for is there: the next wait starts afresh.
    void arrived() noexcept { waitStart = 0; }

private:
    bool pause()
    {
        const std::int64_t now = steadyNanoseconds();
        if (waitStart == 0)
            waitStart = now;
        if (now - std::max(waitStart, progress.load(std::memory_order_acquire)) > timeout)
            return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return true;
    }

    const std::atomic<std::int64_t>& progress;
    std::int64_t timeout;
    std::int64_t waitStart = 0;
};
} // namespace demon
