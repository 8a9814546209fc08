// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstddef>
#include <vector>

namespace demon
{
/// A ring of preallocated slots between exactly two threads.
///
/// One thread (the producer) may call tryPush, one other (the consumer) front, pop and tryPop; both may call size. All
/// of them are wait-free and allocate nothing; a slot keeps its own storage, so filling one by assignment of equal size
/// does not allocate either. Construction and destruction happen when neither thread is inside.
template <class Slot> class SpscRing
{
public:
    /// Room for `capacity` slots, each a copy of `prototype`.
    explicit SpscRing(std::size_t capacity, const Slot& prototype = Slot()) : slots(capacity + 1, prototype) {}

    /// Producer. Calls `fill(slot)` and hands the slot over; false, without a call, when the ring is full.
    template <class Fill> bool tryPush(Fill&& fill)
    {
        const std::size_t at = writeIndex.load(std::memory_order_relaxed);
        const std::size_t next = successor(at);
        if (next == readIndex.load(std::memory_order_acquire))
            return false;
        fill(slots[at]);
        writeIndex.store(next, std::memory_order_release);
        return true;
    }

    /// Consumer. The oldest slot, which stays valid until pop(); nullptr when the ring is empty.
    Slot* front() noexcept
    {
        const std::size_t at = readIndex.load(std::memory_order_relaxed);
        return at == writeIndex.load(std::memory_order_acquire) ? nullptr : &slots[at];
    }

    /// Consumer. Gives the oldest slot back; the ring must not be empty.
    void pop() noexcept
    {
        readIndex.store(successor(readIndex.load(std::memory_order_relaxed)), std::memory_order_release);
    }

    /// Consumer. Calls `use(slot)` and gives the slot back; false when the ring is empty.
    template <class Use> bool tryPop(Use&& use)
    {
        Slot* slot = front();
        if (slot == nullptr)
            return false;
        use(*slot);
        pop();
        return true;
    }

    /// Slots in use: exact for neither thread, never more than the capacity.
    std::size_t size() const noexcept
    {
        const std::size_t read = readIndex.load(std::memory_order_acquire);
        const std::size_t write = writeIndex.load(std::memory_order_acquire);
        return (write + slots.size() - read) % slots.size();
    }

private:
    std::size_t successor(std::size_t index) const noexcept { return index + 1 == slots.size() ? 0 : index + 1; }

    std::vector<Slot> slots;
    alignas(64) std::atomic<std::size_t> writeIndex{0};
    alignas(64) std::atomic<std::size_t> readIndex{0};
};
} // namespace demon
