// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

namespace demon
{
/// Hands the newest object to the audio thread while it runs, and keeps every older one until that thread has left it.
///
/// Threads: replace and offer belong to the owner, one call at a time; current, take and enter to the audio thread and
/// are wait-free.
template <class Object> class Handover
{
public:
    /// `next` is the current one at once. Only while the audio thread rests.
    void replace(std::shared_ptr<Object> next)
    {
        incoming = nullptr;
        active = next.get();
        kept = {std::move(next)};
    }

    /// The audio thread takes `next` over when it asks for the current one.
    void offer(std::shared_ptr<Object> next)
    {
        // What comes back here was not taken, and can no longer be. What the audio thread has taken it may not have
        // entered yet: it lies behind the active one, and stays.
        const Object* const withdrawn = incoming.exchange(nullptr, std::memory_order_acq_rel);
        const Object* const inUse = active.load(std::memory_order_acquire);
        const auto firstInUse =
            std::find_if(kept.begin(), kept.end(), [&](const auto& one) { return one.get() == inUse; });
        if (firstInUse != kept.end())
            kept.erase(kept.begin(), firstInUse);
        kept.erase(std::remove_if(kept.begin(), kept.end(), [&](const auto& one) { return one.get() == withdrawn; }),
                   kept.end());
        kept.push_back(std::move(next));
        incoming.store(kept.back().get(), std::memory_order_release);
    }

    bool isEmpty() const noexcept { return kept.empty(); } ///< for the owner

    /// The newest object, or null before the first. It stays alive until the next call.
    Object* current() noexcept
    {
        if (Object* next = take())
            enter(next);
        return active.load(std::memory_order_relaxed);
    }

    /// The two halves of current(), apart for tests.
    Object* take() noexcept { return incoming.exchange(nullptr, std::memory_order_acq_rel); }
    void enter(Object* taken) noexcept { active.store(taken, std::memory_order_release); }

private:
    std::vector<std::shared_ptr<Object>> kept; ///< the newest last
    std::atomic<Object*> incoming{nullptr};    ///< offered, not yet taken
    std::atomic<Object*> active{nullptr};      ///< what the audio thread is inside of
};
} // namespace demon
