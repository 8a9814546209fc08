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
constexpr int kStateVersion = 1;
constexpr std::size_t kMaxPromptBytes = 4096;

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
        (reference->getStringAttribute("kind") == "structure" ? extras.structure : extras.timbre) = {
            reference->getStringAttribute("name").toStdString(), reference->getStringAttribute("hash").toStdString()};
}
} // namespace

int Settings::latencyFrames() const { return static_cast<int>(std::lround(latencySeconds * kFramesPerSecond)); }

Settings Settings::sanitised() const
{
    constexpr double oneFrame = 1.0 / kFramesPerSecond, longest = 1.0 * kMaxLatencyFrames / kFramesPerSecond;
    Settings s = *this;
    s.config.prompt = cutText(s.config.prompt, kMaxPromptBytes);
    s.extras.promptB = cutText(s.extras.promptB, kMaxPromptBytes);
    s.config.seed = std::clamp<std::int64_t>(s.config.seed, 0, 4294967295LL);
    s.config.steps = std::clamp<std::int64_t>(s.config.steps, 0, 50);
    s.config.solver = s.config.solver == "sde" ? "sde" : "ode";
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
    return settings.sanitised();
}

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
    xml->setAttribute("version", kStateVersion);
    xml->setAttribute("prompt", juce::String::fromUTF8(settings.config.prompt.c_str()));
    xml->setAttribute("prompt_b", juce::String::fromUTF8(settings.extras.promptB.c_str()));
    xml->setAttribute("seed", juce::String(settings.config.seed));
    xml->setAttribute("steps", static_cast<int>(settings.config.steps));
    xml->setAttribute("solver", juce::String(settings.config.solver));
    xml->setAttribute("latency", settings.latencySeconds);
    xml->setAttribute("endpoint", juce::String(settings.endpoint));
    xml->setAttribute("late", settings.latePolicy == LatePolicy::silence ? "silence" : "dry");
    xml->setAttribute("timeout", settings.timeoutSeconds);
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

bool state::fromXml(const juce::XmlElement& xml, Settings& settings, const LaneParameters& lanes)
{
    if (!xml.hasTagName("DEMON"))
        return false;
    const Settings old = settings;
    const auto text = [&](const char* name, const std::string& fallback)
    { return xml.hasAttribute(name) ? xml.getStringAttribute(name).toStdString() : fallback; };

    settings.config.prompt = text("prompt", old.config.prompt);
    settings.extras.promptB = text("prompt_b", old.extras.promptB);
    settings.config.seed =
        xml.hasAttribute("seed") ? xml.getStringAttribute("seed").getLargeIntValue() : old.config.seed;
    settings.config.steps = xml.getIntAttribute("steps", static_cast<int>(old.config.steps));
    settings.config.solver = text("solver", old.config.solver);
    settings.latencySeconds = xml.getDoubleAttribute("latency", old.latencySeconds);
    settings.endpoint = text("endpoint", old.endpoint);
    settings.latePolicy = text("late", old.latePolicy == LatePolicy::silence ? "silence" : "dry") == "silence"
                              ? LatePolicy::silence
                              : LatePolicy::dry;
    settings.timeoutSeconds = xml.getDoubleAttribute("timeout", old.timeoutSeconds);
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
