// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

namespace demon
{
/// Delays one signal by a constant number of samples. What comes out before the first `length` samples have gone in
/// is zero after construction; after a restart of the stream it is stale, and the caller mutes it.
///
/// Construction allocates; exchange is real-time safe and belongs to the audio thread.
class DelayLine
{
public:
    explicit DelayLine(std::size_t length) : memory(length, 0.0f) {}

    /// Replaces `samples[0..count)` by the values of `length` samples ago, and remembers them. Any count.
    void exchange(float* samples, std::size_t count) noexcept
    {
        if (memory.empty())
            return;
        while (count > 0)
        {
            const std::size_t run = std::min(count, memory.size() - at);
            std::swap_ranges(samples, samples + run, memory.begin() + static_cast<std::ptrdiff_t>(at));
            at = at + run == memory.size() ? 0 : at + run;
            samples += run;
            count -= run;
        }
    }

    std::size_t length() const noexcept { return memory.size(); }

private:
    std::vector<float> memory;
    std::size_t at = 0;
};
} // namespace demon
