// SPDX-License-Identifier: AGPL-3.0-or-later
#include "AbCompare.h"

#include "Presets.h"

namespace demon
{
AbCompare::AbCompare(Access access) : sound(std::move(access)) {}

int AbCompare::active() const { return sides.get().active; }

void AbCompare::select(int side)
{
    const Sides old = sides.get();
    if (side == old.active)
        return;
    const Sound heard = sound.get();
    sides.set({side, heard});
    sound.put(old.other.value_or(heard), side == 0 ? "Compare A" : "Compare B");
}

void AbCompare::copyToOther()
{
    const Sound heard = sound.get();
    sides.change([&](Sides& both) { both.other = heard; });
}

bool AbCompare::areEqual() const
{
    const Sides both = sides.get();
    return !both.other || *both.other == sound.get();
}

std::unique_ptr<juce::XmlElement> AbCompare::toXml() const
{
    const Sides both = sides.get();
    auto xml = std::make_unique<juce::XmlElement>("COMPARE");
    xml->setAttribute("active", both.active == 0 ? "A" : "B");
    if (both.other)
    {
        Preset preset;
        preset.name = "other";
        preset.sound = *both.other;
        xml->setAttribute("other", presetJson::write(preset));
    }
    return xml;
}

void AbCompare::fromXml(const juce::XmlElement& xml)
{
    Sides both;
    both.active = xml.getStringAttribute("active") == "B" ? 1 : 0;
    if (const auto preset = presetJson::read(xml.getStringAttribute("other")))
        both.other = preset->sound;
    sides.set(both);
}
} // namespace demon
