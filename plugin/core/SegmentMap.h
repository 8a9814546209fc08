// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace demon
{
/// A stretch of input without a break: from `counter` on, the samples belong to `epoch` (0: to none) and lie at
/// `position` and following on the timeline.
struct Segment
{
    std::int64_t counter = 0;
    std::int32_t epoch = 0;
    std::int64_t position = 0;
};

/// Remembers, for one latency's worth of input, which epoch and position each sample had. Counters count the samples
/// since the stream's last reset. Audio thread only; real-time safe, nothing is allocated.
class SegmentMap
{
public:
    static constexpr std::size_t kCapacity = 256;

    void clear() noexcept
    {
        first = 0;
        count = 0;
    }

    bool isFull() const noexcept { return count == kCapacity; }

    /// Everything from `segment.counter` on belongs to `segment`. When full, only a segment without an epoch may be
    /// added, and then the newest one is turned into it.
    void add(const Segment& segment) noexcept
    {
        if (count > 0 && newest().counter == segment.counter)
            newest() = segment;
        else if (isFull())
            newest().epoch = 0;
        else
            slots[(first + count++) % kCapacity] = segment;
    }

    /// The segment that contains `counter`, which must not decrease from call to call. Forgets those before.
    const Segment& at(std::int64_t counter) noexcept
    {
        while (count > 1 && slots[(first + 1) % kCapacity].counter <= counter)
        {
            first = (first + 1) % kCapacity;
            --count;
        }
        return slots[first];
    }

    /// Where the segment after the one found last begins.
    std::int64_t nextCounter() const noexcept
    {
        return count > 1 ? slots[(first + 1) % kCapacity].counter : std::numeric_limits<std::int64_t>::max();
    }

private:
    Segment& newest() noexcept { return slots[(first + count - 1) % kCapacity]; }

    std::array<Segment, kCapacity> slots{};
    std::size_t first = 0, count = 0;
};
} // namespace demon
