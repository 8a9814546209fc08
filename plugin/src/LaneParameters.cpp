// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LaneParameters.h"

#include <memory>

#include "LaneText.h"

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
            // With the unit, and no label beside it: a host hands the text back, and "1" would be 1, not 1 %.
            .withStringFromValueFunction([&info](float value, int length)
                                         { return laneText::text(info, value).substring(0, length); })
            .withValueFromStringFunction([&info](const juce::String& text)
                                         { return laneText::value(info, text).value_or(info.defaultValue); }));
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
