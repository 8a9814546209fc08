// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Presets.h"

#include <algorithm>
#include <cmath>

#include "FactoryPresets.h"
#include "services/UserFolders.h"

namespace demon
{
namespace
{
juce::String fromUtf8(const std::string& text) { return juce::String::fromUTF8(text.c_str()); }

juce::var choiceToVar(const std::string& name, const std::string& hash)
{
    auto* object = new juce::DynamicObject();
    object->setProperty("name", fromUtf8(name));
    object->setProperty("hash", fromUtf8(hash));
    return object;
}

template <class Choice> Choice choiceFromVar(const juce::var& value)
{
    return {value["name"].toString().toStdString(), value["hash"].toString().toStdString()};
}

void writeSound(juce::DynamicObject& object, const Sound& sound, bool withSeed)
{
    object.setProperty("prompt", fromUtf8(sound.promptA));
    object.setProperty("prompt_b", fromUtf8(sound.promptB));
    if (withSeed)
        object.setProperty("seed", static_cast<juce::int64>(sound.seed));
    object.setProperty("steps", static_cast<juce::int64>(sound.steps));
    object.setProperty("solver", fromUtf8(sound.solver));
    juce::Array<juce::var> loras;
    for (const LoraChoice& lora : sound.loras)
        loras.add(choiceToVar(lora.name, lora.hash));
    object.setProperty("loras", loras);
    if (!sound.timbre.isEmpty())
        object.setProperty("timbre", choiceToVar(sound.timbre.name, sound.timbre.hash));
    if (!sound.structure.isEmpty())
        object.setProperty("structure", choiceToVar(sound.structure.name, sound.structure.hash));
}

/// On the grid of settledLaneValue, so that the text is short and reads as the same bits.
double laneNumber(float value) { return std::round(static_cast<double>(value) * 1e5) / 1e5; }

juce::var lanesToVar(const LaneValues& values, bool withOutputGain)
{
    auto* lanes = new juce::DynamicObject();
    for (std::size_t i = 0; i < kLaneCount; ++i)
        if (withOutputGain || i != lane::output_gain)
            lanes->setProperty(kLanes[i].id, laneNumber(values[i]));
    return lanes;
}

LaneValues lanesFromVar(const juce::var& lanes)
{
    LaneValues values = Sound::defaultLanes();
    for (std::size_t i = 0; i < kLaneCount; ++i)
        if (const juce::var value = lanes[kLanes[i].id]; value.isDouble() || value.isInt() || value.isInt64())
            if (const auto number = static_cast<double>(value); std::isfinite(number))
                values[i] = settledLaneValue(kLanes[i], static_cast<float>(std::clamp(number, -1e6, 1e6)));
    return values;
}

Sound readSound(const juce::var& json, Sound sound)
{
    sound.promptA = json["prompt"].toString().toStdString();
    sound.promptB = json["prompt_b"].toString().toStdString();
    if (json.hasProperty("seed"))
        sound.seed = static_cast<juce::int64>(json["seed"]);
    sound.steps = json.hasProperty("steps") ? static_cast<juce::int64>(json["steps"]) : 0;
    sound.solver = json["solver"].toString() == "sde" ? "sde" : "ode";
    sound.loras = {};
    if (const juce::Array<juce::var>* loras = json["loras"].getArray())
        for (std::size_t i = 0; i < std::min(kLoraPlaces, static_cast<std::size_t>(loras->size())); ++i)
            sound.loras[i] = choiceFromVar<LoraChoice>(loras->getReference(static_cast<int>(i)));
    sound.timbre = choiceFromVar<ReferenceChoice>(json["timbre"]);
    sound.structure = choiceFromVar<ReferenceChoice>(json["structure"]);
    sound.lanes = lanesFromVar(json["lanes"]);
    return sound;
}

/// The object, when its version field is one that we know.
juce::var parse(const juce::String& text, const char* versionField)
{
    const juce::var json = juce::JSON::parse(text);
    const auto version = static_cast<int>(json[versionField]);
    return version >= 1 && version <= presetJson::kVersion ? json : juce::var();
}
} // namespace

juce::String presetJson::write(const Preset& preset)
{
    auto* object = new juce::DynamicObject();
    const juce::var owner(object);
    object->setProperty("demon_preset", kVersion);
    object->setProperty("name", preset.name);
    object->setProperty("category", preset.category);
    object->setProperty("description", preset.description);
    writeSound(*object, preset.sound, preset.hasSeed);
    object->setProperty("lanes", lanesToVar(preset.sound.lanes, false));
    return juce::JSON::toString(owner);
}

std::optional<Preset> presetJson::read(const juce::String& text)
{
    const juce::var json = parse(text, "demon_preset");
    if (!json.isObject() || json["name"].toString().trim().isEmpty())
        return std::nullopt;
    Preset preset;
    preset.name = json["name"].toString().trim();
    preset.category = json["category"].toString();
    preset.description = json["description"].toString();
    preset.hasSeed = json.hasProperty("seed");
    preset.sound = readSound(json, {});
    return preset;
}

juce::String presetJson::writeConfig(const Settings& settings, const LaneParameters& lanes, const MidiLearn::Map& midi)
{
    auto* object = new juce::DynamicObject();
    const juce::var owner(object);
    const Sound sound = soundOf(settings, lanes);
    object->setProperty("demon_config", kVersion);
    writeSound(*object, sound, true);
    object->setProperty("lanes", lanesToVar(sound.lanes, true));
    object->setProperty("latency_seconds", settings.latencySeconds);
    object->setProperty("late", settings.latePolicy == LatePolicy::silence ? "silence" : "dry");
    object->setProperty("timeout_seconds", settings.timeoutSeconds);
    object->setProperty("endpoint", fromUtf8(settings.endpoint));
    juce::Array<juce::var> controls;
    for (const auto& [lane, control] : midi)
    {
        auto* entry = new juce::DynamicObject();
        entry->setProperty("lane", kLanes[lane].id);
        entry->setProperty("channel", control.channel);
        entry->setProperty("controller", control.controller);
        controls.add(entry);
    }
    object->setProperty("midi", controls);
    return juce::JSON::toString(owner);
}

std::optional<presetJson::WholeConfig> presetJson::readConfig(const juce::String& text, const Settings& present)
{
    const juce::var json = parse(text, "demon_config");
    if (!json.isObject())
        return std::nullopt;
    WholeConfig config;
    Sound sound;
    sound.seed = present.config.seed;
    sound = readSound(json, sound);
    config.settings = withSound(present, sound);
    config.lanes = sound.lanes;
    const auto number = [&](const char* name, double fallback)
    { return json.hasProperty(name) ? static_cast<double>(json[name]) : fallback; };
    config.settings.latencySeconds = number("latency_seconds", present.latencySeconds);
    config.settings.timeoutSeconds = number("timeout_seconds", present.timeoutSeconds);
    if (json.hasProperty("late"))
        config.settings.latePolicy = json["late"].toString() == "silence" ? LatePolicy::silence : LatePolicy::dry;
    if (json["endpoint"].toString().isNotEmpty())
        config.settings.endpoint = json["endpoint"].toString().toStdString();
    config.settings = config.settings.sanitised();
    if (const juce::Array<juce::var>* controls = json["midi"].getArray())
        for (const juce::var& entry : *controls)
            for (std::size_t i = 0; i < kLaneCount; ++i)
                if (entry["lane"].toString() == kLanes[i].id)
                    config.midi[i] = {juce::jlimit(1, 16, static_cast<int>(entry["channel"])),
                                      juce::jlimit(0, 119, static_cast<int>(entry["controller"]))};
    return config;
}

juce::File PresetLibrary::defaultFolder() { return juce::File((userFolders::data() / "presets").string()); }

PresetLibrary::PresetLibrary(juce::File folder) : userFolder(std::move(folder)) { rescan(); }

juce::File PresetLibrary::fileFor(const juce::String& name) const
{
    return userFolder.getChildFile(juce::File::createLegalFileName(name).trim() + ".json");
}

void PresetLibrary::rescan()
{
    const auto byName = [](const Preset& a, const Preset& b) { return a.name.compareNatural(b.name) < 0; };
    std::vector<Preset> factory, user;
    for (int i = 0; i < factory_presets::namedResourceListSize; ++i)
    {
        int size = 0;
        const char* data = factory_presets::getNamedResource(factory_presets::namedResourceList[i], size);
        if (auto preset = presetJson::read(juce::String::fromUTF8(data, size)))
            factory.push_back(std::move(*preset));
    }
    for (const juce::File& file : userFolder.findChildFiles(juce::File::findFiles, false, "*.json"))
        if (auto preset = presetJson::read(file.loadFileAsString()))
        {
            preset->file = file;
            user.push_back(std::move(*preset));
        }
    std::sort(factory.begin(), factory.end(), byName);
    std::sort(user.begin(), user.end(), byName);
    all = std::move(factory);
    all.insert(all.end(), user.begin(), user.end());
}

const Preset* PresetLibrary::find(const juce::String& key) const
{
    const auto found = std::find_if(all.begin(), all.end(), [&](const Preset& preset) { return preset.key() == key; });
    return found == all.end() ? nullptr : &*found;
}

juce::String PresetLibrary::save(const Preset& preset)
{
    if (juce::File::createLegalFileName(preset.name).trim().isEmpty())
        return "A preset needs a name";
    if (const juce::Result made = userFolder.createDirectory(); made.failed())
        return made.getErrorMessage();
    if (!fileFor(preset.name).replaceWithText(presetJson::write(preset)))
        return "Cannot write " + fileFor(preset.name).getFullPathName();
    rescan();
    return {};
}

juce::String PresetLibrary::rename(const juce::String& key, const juce::String& newName)
{
    const Preset* found = find(key);
    if (found == nullptr || found->isFactory())
        return "Only your own presets can be renamed";
    if (find("user/" + newName.trim()) != nullptr)
        return "There is a preset of that name already";
    Preset renamed = *found;
    renamed.name = newName.trim();
    const juce::File old = renamed.file;
    if (const juce::String problem = save(renamed); problem.isNotEmpty())
        return problem;
    if (old != fileFor(renamed.name))
        old.deleteFile();
    rescan();
    return {};
}

juce::String PresetLibrary::remove(const juce::String& key)
{
    const Preset* found = find(key);
    if (found == nullptr || found->isFactory())
        return "Only your own presets can be deleted";
    if (!found->file.deleteFile())
        return "Cannot delete " + found->file.getFullPathName();
    rescan();
    return {};
}
} // namespace demon
