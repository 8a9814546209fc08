// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "demon/lanes.h"

namespace demon
{
/// One value per row of lanes.toml.
using LaneValues = std::array<float, kLaneCount>;

constexpr bool isWireLane(const LaneInfo& lane) { return lane.laneClass != LaneClass::output; }

constexpr std::size_t countWireLanes()
{
    std::size_t count = 0;
    for (const LaneInfo& info : kLanes)
        count += isWireLane(info) ? 1u : 0u;
    return count;
}

/// The lanes that the engine reads: all but those that act in the plugin.
inline constexpr std::size_t kWireLaneCount = countWireLanes();
using WireLaneValues = std::array<float, kWireLaneCount>;

/// The column of a lane of lanes.toml among the engine's, of which it must be one.
constexpr std::size_t wireColumnOf(std::size_t lane)
{
    std::size_t column = 0;
    for (std::size_t i = 0; i < lane; ++i)
        column += isWireLane(kLanes[i]) ? 1u : 0u;
    return column;
}

inline WireLaneValues wireLanesOf(const LaneValues& values) noexcept
{
    WireLaneValues wire{};
    std::size_t column = 0;
    for (std::size_t i = 0; i < kLaneCount; ++i)
        if (isWireLane(kLanes[i]))
            wire[column++] = values[i];
    return wire;
}

/// Puts the engine's lanes into `values`.
inline void setWireLanes(LaneValues& values, const WireLaneValues& wire) noexcept
{
    std::size_t column = 0;
    for (std::size_t i = 0; i < kLaneCount; ++i)
        if (isWireLane(kLanes[i]))
            values[i] = wire[column++];
}

inline std::vector<std::string> wireLaneIds()
{
    std::vector<std::string> ids;
    for (const LaneInfo& info : kLanes)
        if (isWireLane(info))
            ids.emplace_back(info.id);
    return ids;
}

/// `value` inside its range and on a grid of 1e-5. Hosts carry parameters as proportions in 0..1; the grid undoes their
/// rounding, so that a value drawn in two hosts reaches the engine with the same bits.
inline float settledLaneValue(const LaneInfo& info, float value) noexcept
{
    const double settled = std::round(static_cast<double>(value) * 1e5) / 1e5;
    return std::clamp(static_cast<float>(settled), info.min, info.max);
}
} // namespace demon
