// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LaneParameters.h"

#include <cmath>
#include <memory>

namespace demon
{
namespace
{
constexpr int kParameterVersion = 1; // raised for parameters that a later version adds

std::unique_ptr<juce::AudioParameterFloat> makeParameter(const LaneInfo& info)
{
    return std::make_unique<juce::AudioParameterFloat>(
        juce::ParameterID{info.id, kParameterVersion}, juce::String::fromUTF8(info.name),
        juce::NormalisableRange<float>(info.min, info.max, 0.0f, info.skew), info.defaultValue,
        juce::AudioParameterFloatAttributes()
            .withLabel(juce::String::fromUTF8(info.unit))
            .withValueFromStringFunction(
                [&info](const juce::String& text) // JUCE's own lets "nan" through
                {
                    const float value = text.getFloatValue();
                    return std::isfinite(value) ? juce::jlimit(info.min, info.max, value) : info.defaultValue;
                }));
}
} // namespace

LaneParameters::LaneParameters(juce::AudioProcessor& owner)
{
    for (std::size_t i = 0; i < kLaneCount; ++i)
    {
        auto parameter = makeParameter(kLanes[i]);
        lanes[i] = parameter.get();
        owner.addParameter(parameter.release());
    }
    auto parameter =
        std::make_unique<juce::AudioParameterBool>(juce::ParameterID{"bypass", kParameterVersion}, "Bypass", false);
    bypassed = parameter.get();
    owner.addParameter(parameter.release());
}

void LaneParameters::read(Controls& controls) const noexcept
{
    for (std::size_t i = 0; i < kLaneCount; ++i)
        controls.lanes[i] = settledLaneValue(kLanes[i], lanes[i]->get());
    controls.bypassed = bypassed->get();
}
} // namespace demon
