// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cmath>

#include "PluginProcessor.h"
#include "TimelineHistory.h"
#include "editor/EditorView.h"

/// An editor's models with data of any state, over a real processor: for pictures, and for tests of the editor alone.
/// What the editor sets comes back in the views.
struct Showcase
{
    struct Engine : demon::EngineModel
    {
        demon::EngineView now;
        bool knowsLanes = true, isLoop = false;
        demon::EngineView view() const override { return now; }
        demon::LaneFacts facts(std::size_t lane) const override
        {
            demon::LaneFacts facts;
            if ((lane == demon::lane::feedback || lane == demon::lane::feedback_depth) && knowsLanes && !isLoop)
                return {false, "only in Loop", {}};
            if (knowsLanes && demon::isWireLane(demon::kLanes[lane]))
                facts.latency = demon::kLanes[lane].laneClass == demon::LaneClass::step ? 0.41 : 1.3;
            return facts;
        }
        void setLatency(double seconds) override { now.latency = seconds; }
        void setLatePolicy(demon::LatePolicy policy) override { now.late = policy; }
        void setTimeout(double seconds) override { now.timeout = seconds; }
        void setEndpoint(const juce::String& endpoint) override { now.endpoint = endpoint; }
        void start() override { now.state = demon::EngineState::starting; }
        void setStartsByItself(bool wanted) override { now.startsByItself = wanted; }
    };
    struct Status : demon::StatusModel
    {
        demon::StatusView now;
        demon::StatusView view() const override { return now; }
        void acknowledge() override { now = {}; }
    };
    struct Mode : demon::ModeModel
    {
        demon::PlayMode now = demon::PlayMode::stream;
        demon::PlayMode mode() const override { return now; }
        void setMode(demon::PlayMode wanted) override { now = wanted; }
    };
    struct Loop : demon::LoopModel
    {
        demon::LoopView now;
        demon::LoopView view() const override { return now; }
        void capture() override { now.state = demon::ClipState::capturing; }
        void stop() override { now.state = demon::ClipState::ready; }
        juce::String load(const juce::File& file) override { return file.existsAsFile() ? "" : "no such file"; }
        void clear() override { now = {}; }
        void setCycles(bool wanted) override { now.cycles = wanted; }
        void setFeedbackRounds(int rounds) override { now.feedbackRounds = rounds; }
    };
    struct References : demon::ReferenceModel
    {
        demon::ReferenceView timbre, structure;
        demon::ReferenceView& of(demon::ReferenceKind kind)
        {
            return kind == demon::ReferenceKind::timbre ? timbre : structure;
        }
        demon::ReferenceView view(demon::ReferenceKind kind) const override
        {
            return kind == demon::ReferenceKind::timbre ? timbre : structure;
        }
        juce::String load(demon::ReferenceKind kind, const juce::File& file) override
        {
            of(kind).name = file.getFileName();
            return {};
        }
        void clear(demon::ReferenceKind kind) override { of(kind) = {}; }
    };
    struct Output : demon::OutputModel
    {
        demon::OutputView now;
        demon::OutputView take() override { return now; }
        void setLoudnessMatch(bool wanted) override { now.matchesLoudness = wanted; }
        void setLimiter(bool live, bool inBounces) override
        {
            now.limits = live;
            now.limitsBounces = inBounces;
        }
    };
    struct Render : demon::RenderModel
    {
        demon::RenderView now;
        demon::RenderView view() const override { return now; }
        void setFrozen(bool wanted) override { now.isFrozen = wanted; }
        void setFolder(const juce::File& folder) override
        {
            now.folder = folder;
            now.isUsersFolder = folder == juce::File();
        }
    };

    demon::PluginProcessor plugin;
    demon::TimelineHistory history;
    Engine engine;
    Status status;
    Mode mode;
    Loop loop;
    References references;
    Output output;
    Render render;

    Showcase()
    {
        using namespace demon;
        engine.now.state = EngineState::ready;
        engine.now.model = "embedded";
        engine.now.backend = "eager, CPU";
        engine.now.endpoint = "tcp://127.0.0.1:47800";
        engine.now.ticks = 7.4;
        engine.now.generations = 0.93;
        engine.now.controlToSound = 0.412;
        engine.now.roundTrip = 0.0011;
        engine.now.minimumLatency = 4.0;
        engine.now.steps = 8;
        engine.now.loraNames = {"chip", "choir", "lofi"};
        engine.now.loraHashes = {std::string(64, '1'), std::string(64, '2'), std::string(64, '3')};
        status.now.text = "Ready: embedded, eager";
        status.now.detail = "received 1480 frames, round trip 1.1 ms";
        output.now.input = {0.42f, 0.36f};
        output.now.output = {0.55f, 0.6f};
        output.now.matchesLoudness = output.now.limits = true;
        render.now.canFreeze = true;
        const PresetLibrary library{juce::File()};
        if (const Preset* preset = library.find("factory/Nave of Voices"))
            plugin.editing().load(*preset);
        plugin.editing().resolveLoras(engine.now.loraNames, engine.now.loraHashes);
        plugin.editing().changeSeed(2718281828LL);
        references.timbre.name = "vox humana.wav";
    }

    demon::EditorModels models()
    {
        return {plugin.editing(), engine,  status, history, plugin.lanes().bypass(), &mode, &loop,
                &references,      &output, &render};
    }

    void playInLoop()
    {
        mode.now = demon::PlayMode::loop;
        engine.isLoop = true;
    }

    /// Music from `from` to `to` seconds, with the playhead at `playhead`; `state(seconds after the playhead)` says
    /// what became of each frame.
    template <class State> void play(double playhead, double from, double to, State&& state)
    {
        using namespace demon;
        for (auto frame = static_cast<std::int64_t>(from * 25); frame < static_cast<std::int64_t>(to * 25); ++frame)
        {
            const auto at = static_cast<double>(frame);
            const double beat = std::fmod(at, 13.0) / 13.0, bar = std::fmod(at, 104.0) / 104.0;
            const double flutter = 0.5 + 0.5 * std::sin(at * 2.399) * std::cos(at * 0.71);
            FrameNote note;
            note.frame = frame;
            note.status = state(at / 25.0 - playhead);
            const auto pluck = static_cast<float>((0.2 + 0.65 * std::exp(-4.0 * beat)) * (0.55 + 0.4 * flutter));
            const auto swell = static_cast<float>((0.3 + 0.45 * std::sin(bar * 3.1416)) * (0.75 + 0.25 * flutter));
            note.input.highest = pluck;
            note.input.lowest = -0.9f * pluck;
            note.output.highest = swell;
            note.output.lowest = -0.95f * swell;
            note.lanes = Sound::defaultLanes();
            note.lanes[lane::denoise] = static_cast<float>(0.62 + 0.28 * std::cos((at - playhead * 25.0) * 0.021));
            history.add(note);
        }
        history.setPlayhead(playhead * 25.0);
    }

    /// Seconds on the timeline up to which windows have arrived, and up to which they are being made.
    void setAhead(double readyTo, double fedTo)
    {
        history.setAhead(static_cast<std::int64_t>(readyTo * 25.0), static_cast<std::int64_t>(fedTo * 25.0));
    }
};
