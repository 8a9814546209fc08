// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginState.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "demon/utf8.h"

namespace demon
{
namespace
{
constexpr std::size_t kMaxPromptBytes = 4096;
constexpr std::size_t kMaxNameBytes = 256;
constexpr double kMaxMatchGain = 12.0; // decibels

/// At most `bytes` of valid UTF-8: cut before the character that does not fit; empty when the text is not UTF-8.
std::string cutText(std::string text, std::size_t bytes)
{
    if (!isUtf8(text))
        return {};
    if (text.size() > bytes)
        text.resize(bytes);
    while (!isUtf8(text))
        text.pop_back();
    return text;
}

double finiteOr(double value, double fallback) { return std::isfinite(value) ? value : fallback; }

bool isHash(const std::string& text)
{
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string hashOrNone(const std::string& text) { return isHash(text) ? text : std::string(); }

/// Version 1 knew Stream only, and one prompt.
void migrateFrom1(juce::XmlElement& xml)
{
    for (const auto& [name, value] : {std::pair{"mode", "stream"},
                                      {"prompt_b", ""},
                                      {"feedback_rounds", "1"},
                                      {"bpm", "0"},
                                      {"meter", "0"},
                                      {"cycles", "0"},
                                      {"match", "0"},
                                      {"match_gain", "0"},
                                      {"limiter", "0"},
                                      {"limiter_in_bounces", "0"},
                                      {"checkpoint", ""},
                                      {"checkpoint_hash", ""}})
        xml.setAttribute(name, value);
}

const char* fromEnvironment(const char* name)
{
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
}

void extrasToXml(juce::XmlElement& xml, const SoundExtras& extras)
{
    for (std::size_t i = 0; i < kLoraPlaces; ++i)
        if (!extras.loras[i].isEmpty())
        {
            juce::XmlElement* lora = xml.createNewChildElement("LORA");
            lora->setAttribute("place", static_cast<int>(i + 1));
            lora->setAttribute("name", juce::String::fromUTF8(extras.loras[i].name.c_str()));
            lora->setAttribute("hash", juce::String(extras.loras[i].hash));
        }
    for (const auto& [kind, choice] : {std::pair("timbre", &extras.timbre), std::pair("structure", &extras.structure)})
        if (!choice->isEmpty())
        {
            juce::XmlElement* reference = xml.createNewChildElement("REFERENCE");
            reference->setAttribute("kind", kind);
            reference->setAttribute("name", juce::String::fromUTF8(choice->name.c_str()));
            reference->setAttribute("hash", juce::String(choice->hash));
        }
}

/// A state that has no such element has no LoRA and no reference.
void extrasFromXml(const juce::XmlElement& xml, SoundExtras& extras)
{
    extras.loras = {};
    extras.timbre = extras.structure = {};
    for (const juce::XmlElement* lora : xml.getChildWithTagNameIterator("LORA"))
        if (const int place = lora->getIntAttribute("place"); place >= 1 && place <= static_cast<int>(kLoraPlaces))
            extras.loras[static_cast<std::size_t>(place - 1)] = {lora->getStringAttribute("name").toStdString(),
                                                                 lora->getStringAttribute("hash").toStdString()};
    for (const juce::XmlElement* reference : xml.getChildWithTagNameIterator("REFERENCE"))
    {
        ReferenceChoice& choice =
            reference->getStringAttribute("kind") == "structure" ? extras.structure : extras.timbre;
        choice = {reference->getStringAttribute("name").toStdString(),
                  reference->getStringAttribute("hash").toStdString()};
    }
}
} // namespace

Settings::Settings() { config.loras.resize(kLoraPlaces); }

int Settings::latencyFrames() const { return static_cast<int>(std::lround(latencySeconds * kFramesPerSecond)); }

Settings Settings::sanitised() const
{
    constexpr double oneFrame = 1.0 / kFramesPerSecond, longest = 1.0 * kMaxLatencyFrames / kFramesPerSecond;
    Settings s = *this;
    s.config.prompt = cutText(s.config.prompt, kMaxPromptBytes);
    s.config.seed = std::clamp<std::int64_t>(s.config.seed, 0, 4294967295LL);
    s.config.steps = std::clamp<std::int64_t>(s.config.steps, 0, 50);
    s.config.solver = s.config.solver == "sde" ? "sde" : "ode";
    s.extras.promptB = cutText(s.extras.promptB, kMaxPromptBytes);
    for (LoraChoice& lora : s.extras.loras)
        lora = {cutText(lora.name, kMaxNameBytes), hashOrNone(lora.hash)};
    for (ReferenceChoice* reference : {&s.extras.timbre, &s.extras.structure})
        *reference = {cutText(reference->name, kMaxNameBytes), hashOrNone(reference->hash)};
    s.config.promptB = s.extras.promptB;
    s.config.loras.resize(kLoraPlaces);
    for (std::size_t i = 0; i < kLoraPlaces; ++i)
        s.config.loras[i] = s.extras.loras[i].hash;
    s.config.timbre = s.extras.timbre.hash;
    s.config.structure = s.extras.structure.hash;
    s.config.feedbackRounds = std::clamp<std::int64_t>(s.config.feedbackRounds, 1, 8);
    s.config.bpm = s.config.bpm == 0 ? 0 : std::clamp<std::int64_t>(s.config.bpm, 20, 400);
    s.config.meter = std::clamp<std::int64_t>(s.config.meter, 0, 16);
    s.matchGain = std::clamp(finiteOr(s.matchGain, 0.0), -kMaxMatchGain, kMaxMatchGain);
    s.checkpointHash = hashOrNone(s.checkpointHash);
    s.checkpoint = cutText(s.checkpoint, kMaxNameBytes);
    s.latencySeconds = std::clamp(finiteOr(s.latencySeconds, Settings().latencySeconds), oneFrame, longest);
    s.timeoutSeconds = std::clamp(finiteOr(s.timeoutSeconds, Settings().timeoutSeconds), 0.0, 3600.0);
    return s;
}

Settings environment::initialSettings()
{
    Settings settings;
    if (const char* seconds = fromEnvironment("DEMON_LATENCY_S"))
        settings.latencySeconds = std::atof(seconds);
    if (const char* prompt = fromEnvironment("DEMON_PROMPT"))
        settings.config.prompt = prompt;
    if (const char* seed = fromEnvironment("DEMON_SEED"))
        settings.config.seed = std::atoll(seed);
    if (const char* mode = fromEnvironment("DEMON_MODE"))
        settings.mode = std::string(mode) == "loop" ? PlayMode::loop : PlayMode::stream;
    return settings.sanitised();
}

bool environment::capturesAtOnce() { return fromEnvironment("DEMON_CAPTURE") != nullptr; }

Settings environment::overridden(const Settings& settings)
{
    Settings used = settings;
    if (const char* endpoint = fromEnvironment("DEMON_ENDPOINT"))
        used.endpoint = endpoint;
    if (const char* seconds = fromEnvironment("DEMON_TIMEOUT_S"))
        used.timeoutSeconds = std::atof(seconds);
    return used.sanitised();
}

std::unique_ptr<juce::XmlElement> state::toXml(const Settings& settings, const LaneParameters& lanes)
{
    auto xml = std::make_unique<juce::XmlElement>("DEMON");
    xml->setAttribute("version", kVersion);
    xml->setAttribute("mode", settings.mode == PlayMode::loop ? "loop" : "stream");
    xml->setAttribute("prompt", juce::String::fromUTF8(settings.config.prompt.c_str()));
    xml->setAttribute("prompt_b", juce::String::fromUTF8(settings.extras.promptB.c_str()));
    xml->setAttribute("seed", juce::String(settings.config.seed));
    xml->setAttribute("steps", static_cast<int>(settings.config.steps));
    xml->setAttribute("solver", juce::String(settings.config.solver));
    xml->setAttribute("feedback_rounds", static_cast<int>(settings.config.feedbackRounds));
    xml->setAttribute("bpm", static_cast<int>(settings.config.bpm));
    xml->setAttribute("meter", static_cast<int>(settings.config.meter));
    xml->setAttribute("latency", settings.latencySeconds);
    xml->setAttribute("cycles", settings.cycles ? 1 : 0);
    xml->setAttribute("endpoint", juce::String(settings.endpoint));
    xml->setAttribute("late", settings.latePolicy == LatePolicy::silence ? "silence" : "dry");
    xml->setAttribute("timeout", settings.timeoutSeconds);
    xml->setAttribute("match", settings.matchesLoudness ? 1 : 0);
    xml->setAttribute("match_gain", settings.matchGain);
    xml->setAttribute("limiter", settings.limits ? 1 : 0);
    xml->setAttribute("limiter_in_bounces", settings.limitsBounces ? 1 : 0);
    xml->setAttribute("checkpoint", juce::String::fromUTF8(settings.checkpoint.c_str()));
    xml->setAttribute("checkpoint_hash", juce::String(settings.checkpointHash));
    for (std::size_t i = 0; i < kLaneCount; ++i)
    {
        juce::XmlElement* lane = xml->createNewChildElement("LANE");
        lane->setAttribute("id", kLanes[i].id);
        lane->setAttribute("value", static_cast<double>(lanes[i].get()));
    }
    xml->createNewChildElement("BYPASS")->setAttribute("value", lanes.bypass().get() ? 1 : 0);
    extrasToXml(*xml, settings.extras);
    return xml;
}

std::unique_ptr<juce::XmlElement> state::fromBytes(const void* data, int size)
{
    constexpr int header = 8; // JUCE's magic number and the length of the text
    if (juce::AudioProcessor::getXmlFromBinary(data, size) == nullptr)
        return nullptr;
    const juce::String text = juce::String::fromUTF8(static_cast<const char*>(data) + header, size - header).trimEnd();
    juce::XmlDocument document(text);
    auto xml = document.getDocumentElement();
    return text.endsWithChar('>') && document.getLastParseError().isEmpty() ? std::move(xml) : nullptr;
}

void state::migrate(juce::XmlElement& xml)
{
    const int version = xml.getIntAttribute("version", 1);
    if (version < 2)
        migrateFrom1(xml);
    xml.setAttribute("version", std::max(version, kVersion));
}

bool state::fromXml(const juce::XmlElement& saved, Settings& settings, const LaneParameters& lanes)
{
    if (!saved.hasTagName("DEMON"))
        return false;
    juce::XmlElement xml(saved);
    migrate(xml);
    const auto readText = [](const juce::XmlElement& from, const char* name, std::string& into)
    {
        if (from.hasAttribute(name))
            into = from.getStringAttribute(name).toStdString();
    };
    const auto readInteger = [&](const char* name, std::int64_t& into)
    {
        if (xml.hasAttribute(name))
            into = xml.getStringAttribute(name).getLargeIntValue();
    };
    const auto readBool = [&](const char* name, bool& into) { into = xml.getBoolAttribute(name, into); };

    Config& config = settings.config;
    readText(xml, "prompt", config.prompt);
    readText(xml, "prompt_b", settings.extras.promptB);
    readInteger("seed", config.seed);
    readInteger("steps", config.steps);
    readText(xml, "solver", config.solver);
    readInteger("feedback_rounds", config.feedbackRounds);
    readInteger("bpm", config.bpm);
    readInteger("meter", config.meter);
    if (xml.hasAttribute("mode"))
        settings.mode = xml.getStringAttribute("mode") == "loop" ? PlayMode::loop : PlayMode::stream;
    settings.latencySeconds = xml.getDoubleAttribute("latency", settings.latencySeconds);
    readBool("cycles", settings.cycles);
    readText(xml, "endpoint", settings.endpoint);
    if (xml.hasAttribute("late"))
        settings.latePolicy = xml.getStringAttribute("late") == "silence" ? LatePolicy::silence : LatePolicy::dry;
    settings.timeoutSeconds = xml.getDoubleAttribute("timeout", settings.timeoutSeconds);
    readBool("match", settings.matchesLoudness);
    settings.matchGain = xml.getDoubleAttribute("match_gain", settings.matchGain);
    readBool("limiter", settings.limits);
    readBool("limiter_in_bounces", settings.limitsBounces);
    readText(xml, "checkpoint", settings.checkpoint);
    readText(xml, "checkpoint_hash", settings.checkpointHash);
    extrasFromXml(xml, settings.extras);
    settings = settings.sanitised();

    for (const juce::XmlElement* lane : xml.getChildWithTagNameIterator("LANE"))
        for (std::size_t i = 0; i < kLaneCount; ++i)
            if (lane->getStringAttribute("id") == kLanes[i].id && lane->hasAttribute("value"))
            {
                const double value = finiteOr(lane->getDoubleAttribute("value"), lanes[i].get());
                lanes[i] = std::clamp(static_cast<float>(value), kLanes[i].min, kLanes[i].max);
            }
    if (const juce::XmlElement* bypass = xml.getChildByName("BYPASS"))
        lanes.bypass() = bypass->getBoolAttribute("value", lanes.bypass().get());
    return true;
}
} // namespace demon
