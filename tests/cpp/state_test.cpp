// SPDX-License-Identifier: AGPL-3.0-or-later
// Saved projects: of this version, of older ones, and damaged ones.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "PluginProcessor.h"
#include "PluginState.h"
#include "SavedAudio.h"
#include "catch.h"

using namespace demon;

namespace
{
struct Plugin
{
    juce::ScopedJuceInitialiser_GUI juceRuntime;
    PluginProcessor processor;
};

Settings everySetting()
{
    Settings s;
    s.config.prompt = "strings";
    s.extras.promptB = "b\xc3\xa9ton";
    s.config.seed = 4294967295LL;
    s.config.steps = 12;
    s.config.solver = "sde";
    s.extras.loras[0] = {"choir", std::string(64, 'a')};
    s.extras.loras[2] = {"chip", std::string(64, '7')};
    s.extras.timbre = {"voice.wav", std::string(64, 'b')};
    s.extras.structure = {"drums.flac", std::string(64, 'c')};
    s.config.feedbackRounds = 3;
    s.config.bpm = 128;
    s.config.meter = 3;
    s.mode = PlayMode::loop;
    s.latencySeconds = 8.0;
    s.cycles = true;
    s.endpoint = "tcp://127.0.0.1:1234";
    s.latePolicy = LatePolicy::silence;
    s.timeoutSeconds = 5.0;
    s.matchesLoudness = true;
    s.matchGain = -2.5;
    s.limits = s.limitsBounces = true;
    s.checkpoint = "embedded";
    s.checkpointHash = std::string(64, '0');
    return s.sanitised();
}
} // namespace

TEST_CASE("every setting survives saving and opening")
{
    Plugin plugin;
    const Settings wanted = everySetting();
    CHECK(wanted.config.loras == std::vector<std::string>{std::string(64, 'a'), "", std::string(64, '7'), ""});
    const auto xml = state::toXml(wanted, plugin.processor.lanes());
    Settings restored;
    REQUIRE(state::fromXml(*juce::parseXML(xml->toString()), restored, plugin.processor.lanes()));
    CHECK(state::toXml(restored, plugin.processor.lanes())->toString() == xml->toString());
    CHECK(restored == wanted);
}

TEST_CASE("a project of version 1 opens with everything it had, and as what it was: a Stream")
{
    Plugin plugin;
    const auto xml = juce::parseXML(juce::File(DEMON_STATES "/version1.xml"));
    REQUIRE(xml != nullptr);
    Settings restored = everySetting(); // what a plugin had before the project was opened must not stay
    REQUIRE(state::fromXml(*xml, restored, plugin.processor.lanes()));
    Settings expected;
    expected.config.prompt = "choir, Fl\xc3\xb6te & <slow>";
    expected.config.seed = 4294967295LL;
    expected.config.steps = 6;
    expected.config.solver = "sde";
    expected.latencySeconds = 8.0;
    expected.latePolicy = LatePolicy::silence;
    expected.timeoutSeconds = 7.5;
    expected.endpoint = "tcp://127.0.0.1:47801";
    CHECK(restored == expected.sanitised());
    CHECK(plugin.processor.lanes()[lane::denoise].get() == 0.25f);
}

TEST_CASE("of a project of a later version everything opens that is known here")
{
    Plugin plugin;
    const auto xml = state::toXml(everySetting(), plugin.processor.lanes());
    xml->setAttribute("version", state::kVersion + 1);
    xml->setAttribute("of_tomorrow", "1");
    Settings restored;
    REQUIRE(state::fromXml(*xml, restored, plugin.processor.lanes()));
    CHECK(restored == everySetting());
}

TEST_CASE("hashes and names that are none are dropped")
{
    Settings s = everySetting();
    s.extras.loras = {LoraChoice{"a", "no hash"}, {"b", std::string(64, 'G')}, {"c", std::string(63, 'a')}, {}};
    s.extras.timbre = {"\xff\xfe", "../../etc/passwd"};
    s.checkpointHash = "x";
    s = s.sanitised();
    CHECK(s.config.loras == std::vector<std::string>(4));
    CHECK(s.extras.loras[0].name == "a"); // it may be found by its name
    CHECK(s.config.timbre.empty());
    CHECK(s.extras.timbre.name.empty());
    CHECK(s.checkpointHash.empty());
}

TEST_CASE("saved audio comes back to the bit, smaller than it was")
{
    std::vector<float> wave(48000);
    for (std::size_t i = 0; i < wave.size(); ++i)
        wave[i] = 0.5f * std::sin(static_cast<float>(i) * 0.03f);
    wave[7] = -0.0f;
    wave[8] = std::numeric_limits<float>::denorm_min();
    const juce::String text = savedAudio::pack(wave.data(), wave.size());
    std::vector<float> back;
    REQUIRE(savedAudio::unpack(text, wave.size(), back));
    CHECK(std::memcmp(back.data(), wave.data(), wave.size() * sizeof(float)) == 0);
    CHECK(static_cast<std::size_t>(text.length()) < wave.size() * sizeof(float) * 4 / 3);
}

TEST_CASE("damaged audio is refused, never half read")
{
    const std::vector<float> wave(1000, 0.25f);
    const juce::String text = savedAudio::pack(wave.data(), wave.size());
    std::vector<float> back;
    CHECK_FALSE(savedAudio::unpack(text, 999, back));
    CHECK_FALSE(savedAudio::unpack(text, 1001, back));
    CHECK_FALSE(savedAudio::unpack(text.dropLastCharacters(text.length() / 2), 1000, back));
    CHECK_FALSE(savedAudio::unpack("not base 64 at all!", 1000, back));
    CHECK_FALSE(savedAudio::unpack({}, 1000, back));
    CHECK(back.empty());
    const std::vector<float> invalid{1.0f, std::numeric_limits<float>::quiet_NaN()};
    CHECK_FALSE(savedAudio::unpack(savedAudio::pack(invalid.data(), 2), 2, back));
    REQUIRE(savedAudio::unpack(savedAudio::pack(nullptr, 0), 0, back));
}
