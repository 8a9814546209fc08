// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <cstdint>

#include "StreamItems.h"
#include "WindowSearch.h"

namespace demon
{
/// Finds the window for each frame of output in the ring, by epoch and frame, never by order of arrival. A window stays
/// in the ring while it sounds, so nothing is copied.
///
/// Audio thread only. With NeverWait real-time safe; with OfflineWait it waits for the window until the policy gives
/// up, and from then on every frame is missing at once: until the next epoch, a restart, or until the user has
/// acknowledged the time-out.
class WindowReader
{
public:
    WindowReader(WetRing& wetRing, OutputCursor& outputCursor, Telemetry& numbersForUser)
        : ring(wetRing), cursor(outputCursor), telemetry(numbersForUser), search(numbersForUser)
    {
    }

    /// Whatever is in the ring is stale.
    void restart() noexcept
    {
        chosen = {};
        search.forgive();
        for (std::size_t stale = ring.size(); stale > 0; --stale)
            ring.pop();
    }

    /// Gives back the windows of `epoch` and of those before, which nobody wants any more: room for those that follow.
    void discardThrough(std::int32_t epoch) noexcept
    {
        for (std::size_t most = ring.size(); most > 0 && ring.front()->epoch <= epoch; --most)
            ring.pop();
    }

    /// The window of a frame, or null. The answer for a frame does not change while it sounds. (epoch, frame) must not
    /// decrease inside an epoch, nor the epoch.
    template <class Waiter> const WetFrame* at(std::int32_t epoch, std::int64_t frame, Waiter& waiter)
    {
        if (epoch != chosen.epoch || frame != chosen.frame)
        {
            cursor.publish(epoch, frame);
            if (epoch != chosen.epoch)
                search.forgive();
            chosen = {epoch, frame, find(epoch, frame, waiter)};
            if (chosen.window == nullptr)
                telemetry.lateFrames.fetch_add(1, std::memory_order_relaxed);
        }
        return chosen.window;
    }

private:
    struct Chosen
    {
        std::int32_t epoch = 0;
        std::int64_t frame = 0;
        const WetFrame* window = nullptr;
    };

    template <class Waiter> const WetFrame* find(std::int32_t epoch, std::int64_t frame, Waiter& waiter)
    {
        return search.find(epoch, waiter, [&] { return takeUpTo(epoch, frame); });
    }

    /// Gives back every window before (epoch, frame); that window when it is there.
    const WetFrame* takeUpTo(std::int32_t epoch, std::int64_t frame) noexcept
    {
        const WetFrame* window = ring.front();
        while (window != nullptr && (window->epoch < epoch || (window->epoch == epoch && window->frame < frame)))
        {
            ring.pop();
            window = ring.front();
        }
        return window != nullptr && window->epoch == epoch && window->frame == frame ? window : nullptr;
    }

    WetRing& ring;
    OutputCursor& cursor;
    Telemetry& telemetry;
    Chosen chosen;
    WindowSearch search;
};
} // namespace demon
