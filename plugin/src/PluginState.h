// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <juce_audio_processors/juce_audio_processors.h>
#include <memory>
#include <string>

#include "LaneParameters.h"
#include "demon/messages.h"

namespace demon
{
enum class PlayMode
{
    stream, ///< one pass, with latency compensation
    loop    ///< a captured clip, regenerated while it plays
};

inline constexpr std::size_t kLoraPlaces = kLoraSlots;

/// A LoRA as the user chose it. A preset may know only its name; the hash comes from the engine's catalogue.
struct LoraChoice
{
    std::string name, hash;
    bool operator==(const LoraChoice& o) const { return name == o.name && hash == o.hash; }
    bool isEmpty() const { return name.empty() && hash.empty(); }
};

/// A reference clip: the hash of its audio, and the name of the file that it came from.
struct ReferenceChoice
{
    std::string name, hash;
    bool operator==(const ReferenceChoice& o) const { return name == o.name && hash == o.hash; }
    bool isEmpty() const { return hash.empty(); }
};

/// What shapes the sound beside the configuration.
struct SoundExtras
{
    std::string promptB;
    std::array<LoraChoice, kLoraPlaces> loras; ///< for the lanes lora_1 to lora_4
    ReferenceChoice timbre, structure;
    bool operator==(const SoundExtras& o) const
    {
        return promptB == o.promptB && loras == o.loras && timbre == o.timbre && structure == o.structure;
    }
};

/// Everything that shapes the sound and is neither a parameter nor audio.
struct Settings
{
    Config config; ///< promptB, loras, timbre and structure follow from the extras
    SoundExtras extras;
    PlayMode mode = PlayMode::stream;
    double latencySeconds = 6.0; ///< rounded to whole frames of 1/25 s; of Stream
    bool cycles = false;         ///< in Loop: outside the clip its cycle goes on, in place of the dry signal
    std::string endpoint = "tcp://127.0.0.1:47800";
    LatePolicy latePolicy = LatePolicy::dry;
    double timeoutSeconds = 20.0;           ///< of a bounce that waits for the engine
    bool matchesLoudness = false;           ///< the wet signal is brought to the dry one's loudness ...
    double matchGain = 0.0;                 ///< ... by so many decibels
    bool limits = false;                    ///< the safety limiter, while playing ...
    bool limitsBounces = false;             ///< ... and in bounces too
    std::string checkpoint, checkpointHash; ///< of the engine that made the sound last

    Settings();
    int latencyFrames() const;

    /// Out-of-range values brought to the nearest allowed one.
    Settings sanitised() const;

    bool operator==(const Settings& o) const
    {
        return config == o.config && extras == o.extras && mode == o.mode && latencySeconds == o.latencySeconds &&
               cycles == o.cycles && endpoint == o.endpoint && latePolicy == o.latePolicy &&
               timeoutSeconds == o.timeoutSeconds && matchesLoudness == o.matchesLoudness && matchGain == o.matchGain &&
               limits == o.limits && limitsBounces == o.limitsBounces && checkpoint == o.checkpoint &&
               checkpointHash == o.checkpointHash;
    }
    bool operator!=(const Settings& o) const { return !(*this == o); }
};

/// What the environment says, for tests and servers without a display.
///
///   DEMON_ENDPOINT    the engine's address; wins over the user's own, which stays in the saved state
///   DEMON_TIMEOUT_S   time-out of a bounce; likewise
///   DEMON_LATENCY_S, DEMON_PROMPT, DEMON_SEED   of a fresh instance; the saved state wins over them
///   DEMON_MODE        stream or loop; likewise
///   DEMON_CAPTURE     set to anything: a Loop without a clip captures the next run over the timeline
///   DEMON_PROBE_LOG   a file for one JSON line per block (see ProbeLog.h)
namespace environment
{
Settings initialSettings();                    ///< the user's, in a fresh instance
Settings overridden(const Settings& settings); ///< what to use in place of `settings`
bool capturesAtOnce();
} // namespace environment

/// The saved state is one XML element, which JUCE stores as text behind a small header:
///
///   <DEMON version="2" mode="stream" prompt="strings" prompt_b="" seed="7" steps="0" solver="ode" feedback_rounds="1"
///          bpm="0" meter="0" latency="6.0" cycles="0" endpoint="tcp://127.0.0.1:47800" late="dry" timeout="20.0"
///          match="0" match_gain="0.0" limiter="0" limiter_in_bounces="0" checkpoint="embedded"
///          checkpoint_hash="0c6a...">
///     <LORA place="1" name="choir" hash="5f..."/>
///     <REFERENCE kind="timbre" name="voice.wav" hash="77..."/>
///     <LANE id="denoise" value="0.6"/>
///     ...
///     <BYPASS value="0"/>
///     <LORA place="1" name="choir" hash=""/>
///     <REFERENCE kind="timbre" name="voice.wav" hash="..."/>
///   </DEMON>
///
/// `latency` and `timeout` are seconds, `late` is dry or silence, `solver` ode or sde, lane values are plain values in
/// the lane's unit. Lanes are matched by id. What is missing keeps its present value, what is unknown is ignored, what
/// is out of range is brought into it, and bytes that are no such element change nothing. An element of an older
/// version is migrated first. What is not here has an owner of its own that adds its children: the clip and its lanes
/// and references' audio (SavedAudio.h), and the name of what is frozen (FreezeKeeper.h).
namespace state
{
inline constexpr int kVersion = 2;

std::unique_ptr<juce::XmlElement> toXml(const Settings& settings, const LaneParameters& lanes);

/// False when `xml` is not a state.
bool fromXml(const juce::XmlElement& xml, Settings& settings, const LaneParameters& lanes);

/// The element in the bytes that a host kept, or null when they are no whole one: JUCE's own reader takes a text that
/// was cut short for a shorter one.
std::unique_ptr<juce::XmlElement> fromBytes(const void* data, int size);

/// Brings an element of an older version to this one, step by step.
void migrate(juce::XmlElement& xml);
} // namespace state
} // namespace demon
