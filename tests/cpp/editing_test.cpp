// SPDX-License-Identifier: AGPL-3.0-or-later
// What the user edits: undo and redo, A/B, MIDI learn, drawn lanes, and how the project keeps them.
#include <cmath>
#include <limits>

#include "PluginProcessor.h"
#include "TimelineHistory.h"
#include "catch.h"

using namespace demon;

namespace
{
struct Instance
{
    juce::ScopedJuceInitialiser_GUI juceRuntime;
    PluginProcessor plugin;
    Editing& edits = plugin.editing();

    Instance()
    {
        plugin.setRateAndBufferSizeDetails(48000.0, 512);
        plugin.prepareToPlay(48000.0, 512);
    }
    juce::AudioParameterFloat& lane(std::size_t index) { return plugin.lanes()[index]; }
    void drag(std::size_t index, std::initializer_list<float> values)
    {
        lane(index).beginChangeGesture();
        for (const float value : values)
            lane(index).setValueNotifyingHost(lane(index).convertTo0to1(value));
        lane(index).endChangeGesture();
    }
    void prompt(const std::string& text)
    {
        Settings settings = plugin.settings();
        settings.config.prompt = text;
        plugin.changeSettings(settings);
    }
    void turn(int channel, int controller, int value)
    {
        juce::AudioBuffer<float> audio(2, 64);
        audio.clear();
        juce::MidiBuffer midi;
        midi.addEvent(juce::MidiMessage::noteOn(channel, 60, 0.5f), 0);
        midi.addEvent(juce::MidiMessage::controllerEvent(channel, controller, value), 1);
        plugin.processBlock(audio, midi);
        edits.midi.deliver();
    }
    void restoreFrom(PluginProcessor& other)
    {
        juce::MemoryBlock saved;
        other.getStateInformation(saved);
        plugin.setStateInformation(saved.getData(), static_cast<int>(saved.getSize()));
    }
};
} // namespace

TEST_CASE("a drag is one step of the history, automation is none")
{
    Instance i;
    i.drag(lane::denoise, {0.7f, 0.8f, 0.9f});
    i.lane(lane::guidance) = 3.0f; // as the host's automation
    CHECK(i.edits.history.undoName() == "Denoise");
    REQUIRE(i.edits.history.undo());
    CHECK(i.lane(lane::denoise).get() == Approx(0.6f));
    CHECK(i.lane(lane::guidance).get() == Approx(3.0f));
    CHECK_FALSE(i.edits.history.undo());
    CHECK(i.edits.history.redoName() == "Denoise");
    REQUIRE(i.edits.history.redo());
    CHECK(i.lane(lane::denoise).get() == Approx(0.9f));
    CHECK_FALSE(i.edits.history.redo());
}

TEST_CASE("settings and lanes are undone in the order of the edits, and a new edit ends redo")
{
    Instance i;
    i.prompt("strings");
    i.drag(lane::mix, {0.5f});
    i.prompt("choir");
    i.edits.history.undo();
    CHECK(i.plugin.settings().config.prompt == "strings");
    i.edits.history.undo();
    CHECK(i.lane(lane::mix).get() == 1.0f);
    CHECK(i.edits.history.undoName() == "Prompt A");
    i.drag(lane::mix, {0.2f});
    CHECK(i.edits.history.redoName().isEmpty());
    i.edits.history.undo();
    i.edits.history.undo();
    CHECK(i.plugin.settings().config.prompt.empty());
}

TEST_CASE("quick moves of one control are one step, of another are not")
{
    Instance i;
    for (const float value : {0.61f, 0.62f, 0.63f}) // as arrow keys do
        i.drag(lane::denoise, {value});
    i.drag(lane::mix, {0.5f});
    i.edits.history.undo();
    CHECK(i.edits.history.undoName() == "Denoise");
    i.edits.history.undo();
    CHECK(i.lane(lane::denoise).get() == Approx(0.6f));
    CHECK(i.edits.history.undoName().isEmpty());
}

TEST_CASE("a restored project forgets the history, and the history does not grow for ever")
{
    Instance i, other;
    i.prompt("strings");
    i.restoreFrom(other.plugin);
    CHECK(i.edits.history.undoName().isEmpty());
    CHECK_FALSE(i.edits.history.undo());
    for (int n = 0; n < 250; ++n)
        i.prompt(std::to_string(n));
    int steps = 0;
    while (i.edits.history.undo())
        ++steps;
    CHECK(steps == static_cast<int>(UndoHistory::kMaxSteps));
}

TEST_CASE("loading a preset is one step that changes neither a locked seed nor the output gain")
{
    Instance i;
    i.edits.changeSeed(99);
    i.edits.editor.change([](EditorState& state) { state.seedLocked = true; });
    i.drag(lane::output_gain, {-6.0f});
    i.drag(lane::ode_noise, {0.4f});
    Preset preset;
    preset.name = "Test";
    preset.sound.promptA = "flute";
    preset.sound.promptB = "organ";
    preset.sound.seed = 7;
    preset.sound.lanes[lane::denoise] = 0.9f;
    preset.sound.lanes[lane::output_gain] = 12.0f;
    i.edits.load(preset);
    CHECK(i.plugin.settings().config.seed == 99);
    CHECK(i.plugin.settings().extras.promptB == "organ");
    CHECK(i.lane(lane::denoise).get() == Approx(0.9f));
    CHECK(i.lane(lane::ode_noise).get() == 0.0f);
    CHECK(i.lane(lane::output_gain).get() == Approx(-6.0f));
    CHECK_FALSE(i.edits.differsFrom(preset));
    CHECK(i.edits.history.undoName() == "Preset Test");
    i.drag(lane::mix, {0.3f});
    CHECK(i.edits.differsFrom(preset));
    i.edits.history.undo();
    i.edits.history.undo();
    CHECK(i.plugin.settings().config.prompt.empty());
    CHECK(i.lane(lane::ode_noise).get() == Approx(0.4f));
}

TEST_CASE("the seed keeps a history of takes; a locked one does not roll")
{
    Instance i;
    i.prompt("strings");
    i.edits.changeSeed(5);
    i.edits.rollSeed();
    const EditorState state = i.edits.editor.get();
    REQUIRE(state.takes.size() == 3);
    CHECK(state.takes[0].seed == i.plugin.settings().config.seed);
    CHECK(state.takes[1] == Take{5, "strings"});
    CHECK(state.takes[2] == Take{0, "strings"});
    i.edits.editor.change([](EditorState& e) { e.seedLocked = true; });
    i.edits.rollSeed();
    CHECK(i.plugin.settings().config.seed == state.takes[0].seed);
}

TEST_CASE("A and B are two sounds; copying makes them equal; the project keeps both")
{
    Instance i;
    CHECK(i.edits.compare.areEqual());
    i.prompt("strings");
    i.edits.compare.copyToOther();
    i.edits.compare.select(1);
    i.prompt("choir");
    i.drag(lane::denoise, {0.9f});
    CHECK_FALSE(i.edits.compare.areEqual());
    i.edits.compare.select(0);
    CHECK(i.plugin.settings().config.prompt == "strings");
    CHECK(i.lane(lane::denoise).get() == Approx(0.6f));

    Instance reopened;
    reopened.restoreFrom(i.plugin);
    CHECK(reopened.edits.compare.active() == 0);
    reopened.edits.compare.select(1);
    CHECK(reopened.plugin.settings().config.prompt == "choir");
    CHECK(reopened.lane(lane::denoise).get() == Approx(0.9f));
    reopened.edits.compare.copyToOther();
    CHECK(reopened.edits.compare.areEqual());
}

TEST_CASE("a lane learns a controller, follows it in one undo step, and the project keeps the map")
{
    Instance i;
    i.turn(1, 74, 127); // nobody listens
    i.edits.midi.learn(lane::denoise);
    CHECK(i.edits.midi.learning() == lane::denoise);
    i.turn(3, 74, 0);
    CHECK_FALSE(i.edits.midi.learning().has_value());
    CHECK(i.edits.midi.controlOf(lane::denoise) == MidiControl{3, 74});
    i.turn(1, 74, 127); // another channel
    CHECK(i.lane(lane::denoise).get() == 0.0f);
    for (const int value : {20, 40, 127})
        i.turn(3, 74, value);
    CHECK(i.lane(lane::denoise).get() == 1.0f);
    CHECK(i.edits.history.undoName().isEmpty()); // the knob still moves
    juce::Thread::sleep(450);
    i.edits.midi.deliver();
    CHECK(i.edits.history.undoName() == "Denoise");
    i.edits.history.undo();
    CHECK(i.lane(lane::denoise).get() == Approx(0.6f));

    Instance reopened;
    reopened.restoreFrom(i.plugin);
    reopened.turn(3, 74, 127);
    CHECK(reopened.lane(lane::denoise).get() == 1.0f);
    reopened.edits.midi.forget(lane::denoise);
    reopened.turn(3, 74, 0);
    CHECK(reopened.lane(lane::denoise).get() == 1.0f);
    CHECK(reopened.edits.midi.map().empty());
}

TEST_CASE("a flood of controllers neither blocks nor moves what is not mapped")
{
    Instance i;
    i.edits.midi.setMap({{lane::mix, {1, 7}}});
    juce::MidiBuffer midi;
    for (int n = 0; n < 5000; ++n)
        midi.addEvent(juce::MidiMessage::controllerEvent(1, n % 128, n % 128), n % 64);
    juce::AudioBuffer<float> audio(2, 64);
    for (int block = 0; block < 20; ++block)
    {
        audio.clear();
        i.plugin.processBlock(audio, midi);
    }
    i.edits.midi.deliver();
    CHECK(i.lane(lane::mix).get() == Approx(7.0f / 127.0f));
    CHECK(i.lane(lane::denoise).get() == Approx(0.6f));
}

TEST_CASE("a drawn stroke is one step; erasing hands frames back; the project keeps the curves")
{
    Instance i;
    std::vector<std::pair<std::int64_t, std::vector<float>>> sent;
    i.edits.drawn.send = [&](std::size_t, std::int64_t first, const std::vector<float>& values)
    { sent.emplace_back(first, values); };
    i.edits.drawn.beginStroke(lane::denoise);
    i.edits.drawn.draw(lane::denoise, 10, {0.1f, 0.2f});
    i.edits.drawn.draw(lane::denoise, 12, {0.3f, 7.0f});
    i.edits.drawn.endStroke();
    REQUIRE(sent.size() == 2);
    CHECK(sent[1] == std::pair<std::int64_t, std::vector<float>>{12, {0.3f, 1.0f}});
    CHECK(i.edits.history.undoName() == "Draw Denoise");
    CHECK(i.edits.drawn.curve(lane::denoise).size() == 14);
    CHECK(std::isnan(i.edits.drawn.curve(lane::denoise)[9]));

    Instance reopened;
    reopened.restoreFrom(i.plugin);
    REQUIRE(reopened.edits.drawn.curve(lane::denoise).size() == 14);
    CHECK(reopened.edits.drawn.curve(lane::denoise)[13] == 1.0f);

    i.edits.drawn.erase(lane::denoise, 12, 14);
    CHECK(i.edits.drawn.curve(lane::denoise).size() == 12);
    i.edits.history.undo();
    CHECK(i.edits.drawn.curve(lane::denoise).size() == 14);
    i.edits.history.undo();
    CHECK_FALSE(i.edits.drawn.hasCurve(lane::denoise));
    i.edits.history.redo();
    CHECK(i.edits.drawn.curve(lane::denoise)[10] == Approx(0.1f));
}

TEST_CASE("what the editor remembers survives the project, and nonsense is brought into range")
{
    Instance i;
    i.edits.editor.change(
        [](EditorState& state)
        {
            state.width = 1400;
            state.shownLane = lane::guidance;
            state.preset = "factory/Test";
        });
    Instance reopened;
    reopened.restoreFrom(i.plugin);
    CHECK(reopened.edits.editor.get().width == 1400);
    CHECK(reopened.edits.editor.get().shownLane == lane::guidance);
    CHECK(reopened.edits.editor.get().preset == "factory/Test");

    const auto xml = juce::parseXML("<EDITING><EDITOR width='9' height='99999' lane='gone' seconds='nan'><TAKE "
                                    "seed='-4'/></EDITOR><COMPARE other='no'/><DRAWN><CURVE id='denoise' "
                                    "float32='!'/></DRAWN><MIDI lane='mix' channel='99' controller='-1'/></EDITING>");
    REQUIRE(xml != nullptr);
    i.edits.fromXml(*xml);
    const EditorState state = i.edits.editor.get();
    CHECK(state.width == EditorState::kMinWidth);
    CHECK(state.height == EditorState::kMaxHeight);
    CHECK(state.takes[0].seed == 0);
    CHECK(i.edits.midi.controlOf(lane::mix) == MidiControl{16, 0});
    CHECK_FALSE(i.edits.drawn.hasCurve(lane::denoise));
}

TEST_CASE("beyond the playhead the timeline shows what has arrived and what is being made")
{
    TimelineHistory history;
    FrameNote note;
    note.status = FrameStatus::late;
    for (note.frame = 0; note.frame < 6; ++note.frame)
        history.add(note);
    history.setPlayhead(2.0);
    const std::int64_t before = history.revision();
    history.setAhead(4, 8);
    CHECK(history.revision() != before);
    std::vector<TimelineFrame> frames(10);
    history.read(0, 0, frames);
    CHECK(frames[2].state == WindowState::late);  // has sounded
    CHECK(frames[3].state == WindowState::ready); // in place of the pass before
    CHECK(frames[4].state == WindowState::inFlight);
    CHECK(frames[7].state == WindowState::inFlight);
    CHECK(frames[8].state == WindowState::none);
}
