// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "PluginState.h"
#include "core/WireLanes.h"

namespace demon
{
/// What a preset holds, and what A/B compares: everything that shapes the sound, nothing about how the engine is
/// reached.
struct Sound
{
    std::string promptA, promptB;
    std::int64_t seed = 0;
    std::int64_t steps = 0;
    std::string solver = "ode";
    std::array<LoraChoice, kLoraPlaces> loras;
    ReferenceChoice timbre, structure;
    LaneValues lanes = defaultLanes();

    static LaneValues defaultLanes();
    bool operator==(const Sound& o) const;
};

Sound soundOf(const Settings& settings, const LaneParameters& lanes);

/// `settings` with the sound's part of them replaced.
Settings withSound(Settings settings, const Sound& sound);

/// Moves a lane as the user would: in a gesture of its own, so that the host hears of it. Message thread.
void setLane(const LaneParameters& lanes, std::size_t lane, float value);
} // namespace demon
