// SPDX-License-Identifier: AGPL-3.0-or-later
// Presets and configurations as JSON.
#include <set>

#include "PluginProcessor.h"
#include "Presets.h"
#include "catch.h"

using namespace demon;

namespace
{
struct TemporaryFolder
{
    juce::File folder = juce::File::createTempFile("presets");
    ~TemporaryFolder() { folder.deleteRecursively(); }
};

Preset example(const juce::String& name)
{
    Preset preset;
    preset.name = name;
    preset.category = "Mine";
    preset.sound.promptA = "gr\xc3\xbc\xc3\x9f \"<&>\"\nline two";
    preset.sound.promptB = "choir";
    preset.sound.seed = 4294967295LL;
    preset.sound.solver = "sde";
    preset.sound.loras[1] = {"choir", std::string(64, 'a')};
    preset.sound.timbre = {"voice.wav", std::string(64, 'b')};
    preset.sound.lanes[lane::denoise] = 0.12345f;
    preset.sound.lanes[lane::lora_2] = 0.7f;
    return preset;
}
} // namespace

TEST_CASE("the factory's presets are many, named once, within every range, and need no engine")
{
    const TemporaryFolder temporary;
    const PresetLibrary library(temporary.folder);
    REQUIRE(library.presets().size() >= 12);
    std::set<juce::String> names, loras;
    for (const Preset& preset : library.presets())
    {
        INFO(preset.name);
        CHECK(preset.isFactory());
        CHECK(names.insert(preset.name).second);
        CHECK(preset.description.isNotEmpty());
        CHECK(preset.category.isNotEmpty());
        CHECK_FALSE(preset.sound.promptA.empty());
        CHECK_FALSE(preset.hasSeed);
        for (std::size_t i = 0; i < kLaneCount; ++i)
            CHECK(preset.sound.lanes[i] == settledLaneValue(kLanes[i], preset.sound.lanes[i]));
        for (std::size_t place = 0; place < kLoraPlaces; ++place)
        {
            loras.insert(preset.sound.loras[place].name);
            CHECK(preset.sound.loras[place].isEmpty() == (preset.sound.lanes[lane::lora_1 + place] == 0.0f));
        }
    }
    CHECK(loras == std::set<juce::String>{"", "chip", "choir", "lofi"});
}

TEST_CASE("a preset is the same after writing and reading; other versions and other files are refused")
{
    const Preset preset = example("Test");
    const auto read = presetJson::read(presetJson::write(preset));
    REQUIRE(read.has_value());
    CHECK(read->name == preset.name);
    CHECK(read->category == preset.category);
    CHECK(read->hasSeed);
    CHECK(read->sound == preset.sound);
    CHECK_FALSE(presetJson::read(presetJson::write(preset).replace("\"demon_preset\": 1", "\"demon_preset\": 2")));
    for (const char* text : {"", "[]", "{}", "{\"demon_preset\": 1}", "{\"demon_preset\": 1, \"name\": \" \"}", "no"})
        CHECK_FALSE(presetJson::read(text).has_value());
    const auto sparse = presetJson::read("{\"demon_preset\": 1, \"name\": \"x\", \"loras\": 5, \"lanes\": "
                                         "{\"denoise\": 99, \"mix\": \"loud\", \"gone\": 1}}");
    REQUIRE(sparse.has_value());
    CHECK_FALSE(sparse->hasSeed);
    CHECK(sparse->sound.lanes[lane::denoise] == 1.0f);
    CHECK(sparse->sound.lanes[lane::mix] == 1.0f);
}

TEST_CASE("the user's presets are saved, found again, renamed and deleted; the factory's are not")
{
    const TemporaryFolder temporary;
    PresetLibrary library(temporary.folder);
    const std::size_t factory = library.presets().size();
    CHECK(library.save(example("Rain / Tin")).isEmpty());
    CHECK(library.save(example("Second")).isEmpty());
    temporary.folder.getChildFile("broken.json").replaceWithText("{");
    const PresetLibrary again(temporary.folder);
    CHECK(again.presets().size() == factory + 2);
    REQUIRE(library.find("user/Rain / Tin") != nullptr);
    CHECK(library.find("user/Rain / Tin")->sound == example("").sound);
    CHECK(library.rename("user/Second", "Rain / Tin").isNotEmpty());
    CHECK(library.rename("user/Second", "Third").isEmpty());
    CHECK(library.find("user/Second") == nullptr);
    REQUIRE(library.find("user/Third") != nullptr);
    CHECK(library.remove("user/Third").isEmpty());
    CHECK(library.presets().size() == factory + 1);
    const juce::String first = library.presets().front().key();
    CHECK(library.rename(first, "Mine").isNotEmpty());
    CHECK(library.remove(first).isNotEmpty());
    CHECK(library.save(example("  ")).isNotEmpty());
}

TEST_CASE("a whole configuration goes out as JSON and comes in as one step")
{
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    PluginProcessor plugin, other;
    Settings settings = plugin.settings();
    settings.config.prompt = "strings";
    settings.config.seed = 17;
    settings.config.steps = 12;
    settings.config.solver = "sde";
    settings.extras.promptB = "choir";
    settings.latencySeconds = 8.0;
    settings.latePolicy = LatePolicy::silence;
    plugin.changeSettings(settings);
    plugin.lanes()[lane::guidance] = 7.25f;
    plugin.lanes()[lane::output_gain] = -6.0f;
    plugin.editing().midi.setMap({{lane::mix, {2, 7}}});

    const juce::String json = plugin.editing().configJson();
    REQUIRE(other.editing().importConfig(json));
    CHECK(other.settings() == plugin.settings());
    CHECK(other.lanes()[lane::guidance].get() == Approx(7.25f));
    CHECK(other.lanes()[lane::output_gain].get() == Approx(-6.0f));
    CHECK(other.editing().midi.controlOf(lane::mix) == MidiControl{2, 7});
    CHECK(other.editing().history.undoName() == "Import");
    other.editing().history.undo();
    CHECK(other.lanes()[lane::output_gain].get() == 0.0f);
    CHECK_FALSE(other.editing().importConfig("{\"demon_config\": 2}"));
    CHECK_FALSE(other.editing().importConfig(presetJson::write(example("x"))));
}

TEST_CASE("a LoRA that is known by name gets its hash from the catalogue")
{
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    PluginProcessor plugin;
    Settings settings = plugin.settings();
    settings.extras.loras[0].name = "choir";
    settings.extras.loras[2].name = "unknown";
    plugin.changeSettings(settings);
    plugin.editing().resolveLoras({"chip", "choir"}, {std::string(64, '1'), std::string(64, '2')});
    CHECK(plugin.settings().extras.loras[0].hash == std::string(64, '2'));
    CHECK(plugin.settings().extras.loras[2].hash.empty());
    plugin.editing().resolveLoras({"choir"}, {std::string(64, '3')});
    CHECK(plugin.settings().extras.loras[0].hash == std::string(64, '2'));
}
