// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Sound.h"

namespace demon
{
LaneValues Sound::defaultLanes()
{
    LaneValues values{};
    for (std::size_t i = 0; i < kLaneCount; ++i)
        values[i] = kLanes[i].defaultValue;
    return values;
}

bool Sound::operator==(const Sound& o) const
{
    return promptA == o.promptA && promptB == o.promptB && seed == o.seed && steps == o.steps && solver == o.solver &&
           loras == o.loras && timbre == o.timbre && structure == o.structure && lanes == o.lanes;
}

Sound soundOf(const Settings& settings, const LaneParameters& lanes)
{
    Sound sound;
    sound.promptA = settings.config.prompt;
    sound.promptB = settings.extras.promptB;
    sound.seed = settings.config.seed;
    sound.steps = settings.config.steps;
    sound.solver = settings.config.solver;
    sound.loras = settings.extras.loras;
    sound.timbre = settings.extras.timbre;
    sound.structure = settings.extras.structure;
    for (std::size_t i = 0; i < kLaneCount; ++i)
        sound.lanes[i] = settledLaneValue(kLanes[i], lanes[i].get());
    return sound;
}

Settings withSound(Settings settings, const Sound& sound)
{
    settings.config.prompt = sound.promptA;
    settings.extras.promptB = sound.promptB;
    settings.config.seed = sound.seed;
    settings.config.steps = sound.steps;
    settings.config.solver = sound.solver;
    settings.extras.loras = sound.loras;
    settings.extras.timbre = sound.timbre;
    settings.extras.structure = sound.structure;
    return settings;
}

void setLane(const LaneParameters& lanes, std::size_t lane, float value)
{
    juce::AudioParameterFloat& parameter = lanes[lane];
    if (settledLaneValue(kLanes[lane], parameter.get()) == settledLaneValue(kLanes[lane], value))
        return;
    parameter.beginChangeGesture();
    parameter.setValueNotifyingHost(parameter.convertTo0to1(value));
    parameter.endChangeGesture();
}
} // namespace demon
