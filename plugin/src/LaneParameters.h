// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstddef>
#include <juce_audio_processors/juce_audio_processors.h>

#include "core/Stream.h"

namespace demon
{
/// The plugin's parameters: one per row of lanes.toml, in the order of the table, and Bypass.
class LaneParameters
{
public:
    /// Adds the parameters to `owner`, which owns them from then on.
    explicit LaneParameters(juce::AudioProcessor& owner);

    /// The controls at this moment. Audio thread, wait-free.
    void read(Controls& controls) const noexcept;

    juce::AudioParameterFloat& operator[](std::size_t lane) const { return *lanes[lane]; }
    juce::AudioParameterBool& bypass() const { return *bypassed; }

private:
    std::array<juce::AudioParameterFloat*, kLaneCount> lanes{};
    juce::AudioParameterBool* bypassed = nullptr;
};
} // namespace demon
