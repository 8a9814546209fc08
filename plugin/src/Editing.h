// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_audio_processors/juce_audio_processors.h>
#include <memory>

#include "AbCompare.h"
#include "DrawnLanes.h"
#include "EditorState.h"
#include "Guarded.h"
#include "MidiLearn.h"
#include "Presets.h"
#include "UndoHistory.h"

namespace demon
{
/// The user's side of a plugin instance, which lives as long as the processor: history, comparison, MIDI, drawn lanes,
/// and what the editor remembers. Message thread; toXml and fromXml from any thread but the audio thread.
class Editing
{
public:
    /// `owner` and `parameters` must outlive this.
    Editing(juce::AudioProcessor& owner, const LaneParameters& parameters, SettingsAccess settingsAccess);

    const LaneParameters& lanes;
    UndoHistory history;
    AbCompare compare;
    MidiLearn midi;
    DrawnLanes drawn;
    Guarded<EditorState> editor;

    Settings settings() const { return access.get(); }
    void changeSettings(const Settings& wanted) const { access.put(wanted); }
    Sound sound() const { return soundOf(access.get(), lanes); }

    /// Replaces the sound; one step of the undo history.
    void putSound(const Sound& sound, const juce::String& stepName);

    /// As the preset says: a locked seed and the output gain stay.
    void load(const Preset& preset);

    /// Whether the sound differs from the preset that was loaded.
    bool differsFrom(const Preset& preset) const;

    /// A new seed; it goes into the history of takes, as does the one before.
    void changeSeed(std::int64_t seed);
    void rollSeed(); ///< not when it is locked

    /// Gives LoRAs that are known by name only their hash. Names and hashes are the engine's catalogue.
    void resolveLoras(const std::vector<std::string>& names, const std::vector<std::string>& hashes);

    juce::String configJson() const;
    bool importConfig(const juce::String& json); ///< false when it is no configuration; one step of the history

    /// <EDITING> with one child per part, for the saved state; what is missing there is left alone.
    std::unique_ptr<juce::XmlElement> toXml() const;
    void fromXml(const juce::XmlElement& xml);

private:
    Sound presetSound(const Preset& preset) const;
    void putLanes(const LaneValues& values);

    const SettingsAccess access;
};
} // namespace demon
