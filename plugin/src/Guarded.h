// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <mutex>
#include <utility>

namespace demon
{
/// A value that several threads, never the audio thread, read and replace as a whole.
template <class Value> class Guarded
{
public:
    Value get() const
    {
        const std::lock_guard lock(mutex);
        return value;
    }
    /// Calls `use(value)`, for a part of it; likewise short and without coming back here.
    template <class Use> auto read(Use&& use) const
    {
        const std::lock_guard lock(mutex);
        return use(value);
    }
    void set(Value wanted)
    {
        const std::lock_guard lock(mutex);
        value = std::move(wanted);
    }
    /// Calls `edit(value)`, which must not take long nor come back here.
    template <class Edit> decltype(auto) change(Edit&& edit)
    {
        const std::lock_guard lock(mutex);
        return edit(value);
    }

private:
    mutable std::mutex mutex;
    Value value{};
};
} // namespace demon
