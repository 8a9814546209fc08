// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>
#include <optional>
#include <vector>

#include "MidiLearn.h"
#include "Sound.h"

namespace demon
{
/// Presets and whole configurations as JSON. A preset:
///
///   {
///     "demon_preset": 1,
///     "name": "Glass Choir", "category": "Voices", "description": "one line",
///     "prompt": "choir", "prompt_b": "strings",
///     "seed": 7, "steps": 0, "solver": "ode",
///     "loras": [{"name": "choir", "hash": ""}],
///     "timbre": {"name": "voice.wav", "hash": "..."}, "structure": ...,
///     "lanes": {"denoise": 0.8, "lora_1": 1.0}
///   }
///
/// `demon_preset` is the version; a later one than ours is refused. Everything but it and `name` may be missing:
/// without `seed` the present one stays, a missing lane has its default, and `output_gain` always stays as it is, so
/// that no preset makes the level jump. `loras` has up to four entries, in the order of the lanes lora_1 to lora_4; one
/// that has only a name gets its hash from the engine's catalogue.
///
/// A whole configuration is the same with `demon_config` in place of `demon_preset`, all lanes, and "latency_seconds",
/// "late" ("dry" or "silence"), "timeout_seconds", "endpoint", "midi": [{"lane", "channel", "controller"}].
struct Preset
{
    juce::String name, category, description;
    Sound sound;
    bool hasSeed = true;
    juce::File file; ///< of a user preset
    bool isFactory() const { return file == juce::File(); }

    /// Identifies the preset in the project: "factory/NAME" or "user/NAME".
    juce::String key() const { return (isFactory() ? "factory/" : "user/") + name; }
};

namespace presetJson
{
inline constexpr int kVersion = 1;

juce::String write(const Preset& preset);
std::optional<Preset> read(const juce::String& json); ///< nothing when it is no preset of a version that we know

juce::String writeConfig(const Settings& settings, const LaneParameters& lanes, const MidiLearn::Map& midi);

struct WholeConfig
{
    Settings settings;
    LaneValues lanes;
    MidiLearn::Map midi;
};
/// `present` fills in for what the text does not say.
std::optional<WholeConfig> readConfig(const juce::String& json, const Settings& present);
} // namespace presetJson

/// The factory's presets and the user's. Message thread only. Needs no engine.
class PresetLibrary
{
public:
    explicit PresetLibrary(juce::File folder = defaultFolder());

    static juce::File defaultFolder(); ///< "presets" in the user's data folder

    const std::vector<Preset>& presets() const { return all; } ///< factory first; each part in alphabetical order
    const Preset* find(const juce::String& key) const;

    void rescan(); ///< reads the user's folder again; files that are no presets are left out

    /// Saves under the preset's name; one of that name is replaced. The text says what went wrong, or is empty.
    juce::String save(const Preset& preset);
    juce::String rename(const juce::String& key, const juce::String& newName);
    juce::String remove(const juce::String& key);
    juce::File folder() const { return userFolder; }

private:
    juce::File fileFor(const juce::String& name) const;

    const juce::File userFolder;
    std::vector<Preset> all;
};
} // namespace demon
