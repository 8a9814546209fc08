// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Editing.h"

#include <algorithm>

namespace demon
{
Editing::Editing(juce::AudioProcessor& owner, const LaneParameters& parameters, SettingsAccess settingsAccess)
    : lanes(parameters), history(owner, settingsAccess),
      compare({[this] { return sound(); },
               [this](const Sound& wanted, const juce::String& name) { putSound(wanted, name); }}),
      midi(parameters), drawn(history), access(std::move(settingsAccess))
{
}

void Editing::putLanes(const LaneValues& values)
{
    for (std::size_t i = 0; i < kLaneCount; ++i)
        setLane(lanes, i, values[i]);
}

void Editing::putSound(const Sound& wanted, const juce::String& stepName)
{
    history.together(stepName,
                     [&]
                     {
                         access.put(withSound(access.get(), wanted));
                         putLanes(wanted.lanes);
                     });
}

Sound Editing::presetSound(const Preset& preset) const
{
    const Sound present = sound();
    Sound wanted = preset.sound;
    wanted.lanes[lane::output_gain] = present.lanes[lane::output_gain];
    if (!preset.hasSeed || editor.get().seedLocked)
        wanted.seed = present.seed;
    return wanted;
}

void Editing::load(const Preset& preset)
{
    putSound(presetSound(preset), "Preset " + preset.name);
    editor.change([&](EditorState& state) { state.preset = preset.key().toStdString(); });
}

bool Editing::differsFrom(const Preset& preset) const
{
    Sound wanted = presetSound(preset);
    Sound present = sound();
    for (std::size_t i = 0; i < kLoraPlaces; ++i) // a name that the catalogue has resolved is no difference
        if (wanted.loras[i].hash.empty() && wanted.loras[i].name == present.loras[i].name)
            wanted.loras[i].hash = present.loras[i].hash;
    return !(wanted == present);
}

void Editing::changeSeed(std::int64_t seed)
{
    Settings wanted = access.get();
    if (wanted.config.seed == seed)
        return;
    const Take last{wanted.config.seed, wanted.config.prompt};
    wanted.config.seed = seed;
    access.put(wanted);
    const Take next{access.get().config.seed, wanted.config.prompt};
    editor.change(
        [&](EditorState& state)
        {
            state.addTake(last);
            state.addTake(next);
        });
}

void Editing::rollSeed()
{
    if (!editor.get().seedLocked)
        changeSeed(juce::Random::getSystemRandom().nextInt64() & 0xffffffffLL);
}

void Editing::resolveLoras(const std::vector<std::string>& names, const std::vector<std::string>& hashes)
{
    Settings wanted = access.get();
    bool hasChanged = false;
    for (LoraChoice& lora : wanted.extras.loras)
        for (std::size_t i = 0; i < std::min(names.size(), hashes.size()); ++i)
            if (lora.hash.empty() && lora.name == names[i])
            {
                lora.hash = hashes[i];
                hasChanged = true;
            }
    if (hasChanged)
        access.putQuietly(wanted);
}

juce::String Editing::configJson() const { return presetJson::writeConfig(access.get(), lanes, midi.map()); }

bool Editing::importConfig(const juce::String& json)
{
    const auto config = presetJson::readConfig(json, access.get());
    if (!config)
        return false;
    history.together("Import",
                     [&]
                     {
                         access.put(config->settings);
                         putLanes(config->lanes);
                     });
    midi.setMap(config->midi);
    return true;
}

std::unique_ptr<juce::XmlElement> Editing::toXml() const
{
    auto xml = std::make_unique<juce::XmlElement>("EDITING");
    xml->addChildElement(editor.get().toXml().release());
    xml->addChildElement(compare.toXml().release());
    xml->addChildElement(drawn.toXml().release());
    for (const auto& [lane, control] : midi.map())
    {
        juce::XmlElement* entry = xml->createNewChildElement("MIDI");
        entry->setAttribute("lane", kLanes[lane].id);
        entry->setAttribute("channel", control.channel);
        entry->setAttribute("controller", control.controller);
    }
    return xml;
}

void Editing::fromXml(const juce::XmlElement& xml)
{
    if (const juce::XmlElement* part = xml.getChildByName("EDITOR"))
        editor.set(EditorState::fromXml(*part));
    if (const juce::XmlElement* part = xml.getChildByName("COMPARE"))
        compare.fromXml(*part);
    if (const juce::XmlElement* part = xml.getChildByName("DRAWN"))
        drawn.fromXml(*part);
    MidiLearn::Map map;
    for (const juce::XmlElement* entry : xml.getChildWithTagNameIterator("MIDI"))
        for (std::size_t i = 0; i < kLaneCount; ++i)
            if (entry->getStringAttribute("lane") == kLanes[i].id)
                map[i] = {juce::jlimit(1, 16, entry->getIntAttribute("channel", 1)),
                          juce::jlimit(0, 119, entry->getIntAttribute("controller"))};
    midi.setMap(map);
}
} // namespace demon
