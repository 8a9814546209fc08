// SPDX-License-Identifier: AGPL-3.0-or-later
// Writes a picture of the editor in every state:  demon_editor_pictures FOLDER
// Or times how long one takes:                    demon_editor_pictures --time ROUNDS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "Showcase.h"

using namespace demon;

namespace
{
struct Picture
{
    const char* name;
    std::function<void(Showcase&)> arrange;
    bool light = false;
    float scale = 1.0f;
    int width = EditorState::kDefaultWidth, height = EditorState::kDefaultHeight;
};

FrameStatus ready(double) { return FrameStatus::ready; }

void playing(Showcase& s)
{
    s.play(41.6, 20.0, 46.0, ready);
    s.setAhead(42.8, 46.0);
}

void noEngine(Showcase& s)
{
    s.engine.now = {};
    s.engine.now.state = EngineState::absent;
    s.engine.now.endpoint = "tcp://127.0.0.1:47800";
    s.engine.now.canStart = true;
    s.engine.knowsLanes = false;
    s.status.now = {Severity::warning, "", "No engine at tcp://127.0.0.1:47800: start it with demon serve", "", false};
    s.play(12.0, 0.0, 12.0, [](double) { return FrameStatus::waiting; });
}

void warming(Showcase& s)
{
    noEngine(s);
    s.engine.now.state = EngineState::warming;
    s.engine.now.canStart = false;
    s.engine.now.warmUp = 0.8;
    s.status.now = {Severity::busy, "", "Starting the engine: loading embedded", "received 0 frames", false};
}

void late(Showcase& s)
{
    s.engine.now.lateWindows = 63;
    s.engine.now.ticks = 3.1;
    s.engine.now.generations = 0.39;
    s.play(41.6, 20.0, 46.0,
           [](double seconds)
           {
               const bool isLate = seconds > -1.4 || (seconds > -6.0 && seconds < -4.9);
               return isLate ? FrameStatus::late : FrameStatus::ready;
           });
    s.setAhead(41.6, 46.0);
    s.status.now = {Severity::warning, "",
                    "63 frames came late; the source played in their place. Choose a longer latency",
                    "received 1417 frames, round trip 3.8 ms", false};
}

void offline(Showcase& s)
{
    s.engine.now.ticks = 9.8;
    s.engine.now.generations = 1.2;
    s.engine.now.controlToSound.reset();
    s.play(18.0, 0.0, 22.0, ready);
    s.setAhead(18.0, 22.0);
    s.status.now = {Severity::busy, "", "Bouncing: the plugin waits for the engine as long as it makes progress",
                    "received 450 frames", false};
}

void frozen(Showcase& s)
{
    s.engine.now = {};
    s.engine.now.state = EngineState::unneeded;
    s.engine.now.endpoint = "tcp://127.0.0.1:47800";
    s.render.now.isFrozen = true;
    s.render.now.isStale = true;
    s.render.now.text = "Frozen 0:24 to 0:48";
    s.play(36.0, 24.0, 48.0,
           [](double seconds) { return seconds > -4.0 && seconds < -1.0 ? FrameStatus::stale : FrameStatus::ready; });
    s.status.now = {Severity::calm, "", "Frozen: plays the rendered result without an engine; 3 s are stale", "",
                    false};
}

void error(Showcase& s)
{
    s.engine.now.state = EngineState::refused;
    s.engine.now.model = {};
    s.engine.now.backend = {};
    s.engine.now.ticks.reset();
    s.engine.now.generations.reset();
    s.engine.now.controlToSound.reset();
    s.play(41.6, 20.0, 41.6, [](double seconds) { return seconds < -8.0 ? FrameStatus::ready : FrameStatus::late; });
    s.status.now = {Severity::error, "E_LATENCY",
                    "the latency is 50 frames (2 s); this model needs at least 128 frames (5.12 s)",
                    "received 0 frames", true};
}

void loopDrawn(Showcase& s)
{
    s.playInLoop();
    s.loop.now.state = ClipState::ready;
    s.loop.now.first = 200;
    s.loop.now.frames = 400;
    s.loop.now.cycles = true;
    s.loop.now.bounceIsStale = true;
    s.plugin.editing().editor.change([](EditorState& state) { state.timelineSeconds = 20.0; });
    s.play(17.0, 8.0, 24.0, ready);
    std::vector<float> smooth, steps;
    for (int i = 0; i < 170; ++i)
        smooth.push_back(static_cast<float>(0.5 - 0.4 * std::cos(i * 0.037)));
    for (int i = 0; i < 100; ++i)
        steps.push_back(i / 20 % 2 == 0 ? 0.3f : 0.85f);
    s.plugin.editing().drawn.draw(lane::denoise, 20, smooth);
    s.plugin.editing().drawn.draw(lane::denoise, 240, steps);
    s.status.now.text = "Ready: embedded, eager; take 37";
    s.engine.now.latency = 0.0;
}

void loopEmpty(Showcase& s)
{
    s.playInLoop();
    s.engine.now.latency = 0.0;
    s.engine.now.generations.reset();
    s.status.now.text = "Ready: capture a clip";
}

const Picture kPictures[] = {
    {"no-engine", noEngine},
    {"warming", warming},
    {"playing", playing},
    {"playing-2x", playing, false, 2.0f},
    {"late", late},
    {"offline", offline},
    {"frozen", frozen},
    {"error", error},
    {"light", playing, true},
    {"light-2x", playing, true, 2.0f},
    {"loop", loopDrawn},
    {"loop-light", loopDrawn, true},
    {"loop-empty", loopEmpty},
    {"smallest", playing, false, 1.0f, EditorState::kMinWidth, EditorState::kMinHeight},
    {"large", loopDrawn, false, 1.0f, 1720, 1080},
};

/// The editor as the picture has it. The view belongs to the showcase's models: keep both.
struct Drawn
{
    Showcase showcase;
    EditorView view{showcase.models(), UserPreferences(juce::File())};

    explicit Drawn(const Picture& picture)
    {
        picture.arrange(showcase);
        view.setLight(picture.light);
        view.setSize(picture.width, picture.height);
        for (int i = 0; i < 3; ++i)
            view.refreshAll();
    }
};

bool write(const Picture& picture, const juce::File& folder)
{
    Drawn drawn(picture);
    const juce::Image image = drawn.view.createComponentSnapshot(drawn.view.getLocalBounds(), true, picture.scale);
    const juce::File file = folder.getChildFile(juce::String(picture.name) + ".png");
    file.deleteFile();
    juce::FileOutputStream stream(file);
    return stream.openedOk() && juce::PNGImageFormat().writeImageToStream(image, stream);
}

/// A component of one colour: what a picture of that size costs by itself.
struct Plain : juce::Component
{
    void paint(juce::Graphics& g) override { g.fillAll(juce::Colours::grey); }
};

/// Seconds of every round to paint the whole editor while it plays, and a plain component of its size: one line of
/// JSON, as demon_host_bench prints it.
void timePaint(int rounds)
{
    const Picture picture{"playing", playing};
    Drawn drawn(picture);
    Plain plain;
    plain.setSize(picture.width, picture.height);
    const auto paint = [](juce::Component& component)
    {
        const auto begun = std::chrono::steady_clock::now();
        (void)component.createComponentSnapshot(component.getLocalBounds());
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    };
    juce::StringArray painted, filled;
    for (int round = -1; round < rounds; ++round) // the first fills caches of glyphs, and does not count
    {
        const double editor = paint(drawn.view), fill = paint(plain);
        if (round < 0)
            continue;
        painted.add(juce::String(editor, 9));
        filled.add(juce::String(fill, 9));
    }
    std::printf("[[%s], [%s]]\n", painted.joinIntoString(", ").toRawUTF8(), filled.joinIntoString(", ").toRawUTF8());
}
} // namespace

int main(int argc, char** argv)
{
    const bool isTimed = argc == 3 && std::strcmp(argv[1], "--time") == 0;
    if (argc != 2 && !isTimed)
    {
        std::fprintf(stderr, "usage: %s FOLDER | --time ROUNDS\n", argv[0]);
        return 2;
    }
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    if (isTimed)
    {
        timePaint(std::atoi(argv[2]));
        return 0;
    }
    const juce::File folder = juce::File::getCurrentWorkingDirectory().getChildFile(argv[1]);
    folder.createDirectory();
    for (const Picture& picture : kPictures)
        if (!write(picture, folder))
        {
            std::fprintf(stderr, "cannot write %s\n", picture.name);
            return 1;
        }
    return 0;
}
