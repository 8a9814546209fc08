// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>

#include "StreamItems.h"

namespace demon
{
/// Looks for windows with the patience of a waiter: until a window is there or the waiter gives up. From then on every
/// window counts as missing at once, until forgive() or until the user has acknowledged the time-out.
///
/// Audio thread only. With NeverWait real-time safe.
class WindowSearch
{
public:
    explicit WindowSearch(Telemetry& numbersForUser) : telemetry(numbersForUser) {}

    /// Waits again: for another epoch, after a restart.
    void forgive() noexcept { hasGivenUp = false; }

    /// What `look()` finds of `epoch`; false-like when it is missing.
    template <class Waiter, class Look> auto find(std::int32_t epoch, Waiter& waiter, Look&& look) -> decltype(look())
    {
        auto window = look();
        if constexpr (Waiter::kWaits)
        {
            hasGivenUp = hasGivenUp && telemetry.timedOut.load(std::memory_order_relaxed);
            while (!window && !hasGivenUp)
            {
                hasGivenUp = !waiter.forWindow(epoch);
                window = look();
            }
            waiter.arrived();
            if (hasGivenUp)
            {
                telemetry.timedOut.store(true, std::memory_order_relaxed);
                return {}; // whatever still comes
            }
        }
        return window;
    }

private:
    Telemetry& telemetry;
    bool hasGivenUp = false;
};
} // namespace demon
