// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

#include "StreamItems.h"

namespace demon
{
/// Replaces NaN and infinity by 0 and counts them. Audio thread; real-time safe.
inline void removeNonFinite(std::array<float*, 2> audio, int count, Telemetry& telemetry) noexcept
{
    std::int64_t found = 0;
    for (float* channel : audio)
        for (int i = 0; i < count; ++i)
            if (!std::isfinite(channel[i]))
            {
                channel[i] = 0.0f;
                ++found;
            }
    if (found > 0)
        telemetry.nonFiniteSamples.fetch_add(found, std::memory_order_relaxed);
}
} // namespace demon
