// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cstddef>
#include <random>
#include <vector>

#include "core/Controls.h"

/// What the rigs of the real-time core play: signals at a low rate, and lanes at their defaults.
namespace signals
{
inline constexpr int kRate = 8000;
inline constexpr int kFrame = 320;

using Signal = std::vector<float>;

inline Signal noise(std::size_t count, unsigned seed)
{
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> values(-1.0f, 1.0f);
    Signal signal(count);
    std::generate(signal.begin(), signal.end(), [&] { return values(random); });
    return signal;
}

inline demon::Controls defaultControls()
{
    demon::Controls controls;
    for (std::size_t i = 0; i < demon::kLaneCount; ++i)
        controls.lanes[i] = demon::kLanes[i].defaultValue;
    return controls;
}
} // namespace signals
