// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <juce_audio_processors/juce_audio_processors.h>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "ClipKeeper.h"
#include "Editing.h"
#include "EngineStart.h"
#include "FreezeKeeper.h"
#include "LaneParameters.h"
#include "Player.h"
#include "PluginState.h"
#include "ReferenceKeeper.h"
#include "TimelineHistory.h"
#include "core/Handover.h"
#include "core/OutputTail.h"
#include "core/Realtime.h"
#include "link/EngineLink.h"
#include "services/RenderRecorder.h"
#include "services/UserSettings.h"

namespace demon
{
/// The plugin. Joins the host to a Player (audio thread) and an EngineLink (its own thread); all state lives here, none
/// in the editor.
///
/// Threads: processBlock is the audio thread's and real-time safe while the host plays in real time; reset may be
/// called from any thread; settings and state from any but the audio thread.
class PluginProcessor : public juce::AudioProcessor, private juce::Timer
{
public:
    PluginProcessor();
    ~PluginProcessor() override;

    void prepareToPlay(double sampleRate, int maximumBlock) override;
    void releaseResources() override {}
    void reset() override;
    void processBlock(juce::AudioBuffer<float>&, juce::MidiBuffer&) override;
    void processBlockBypassed(juce::AudioBuffer<float>&, juce::MidiBuffer&) override;
    using AudioProcessor::processBlock;
    using AudioProcessor::processBlockBypassed;
    bool isBusesLayoutSupported(const BusesLayout&) const override;
    double getTailLengthSeconds() const override; ///< the latency: a host must not put the plugin to sleep before

    void getStateInformation(juce::MemoryBlock&) override;
    void setStateInformation(const void* data, int size) override;
    juce::AudioProcessorParameter* getBypassParameter() const override { return &parameters.bypass(); }

    juce::AudioProcessorEditor* createEditor() override;
    bool hasEditor() const override { return true; }
    const juce::String getName() const override { return "DEMON"; }
    bool acceptsMidi() const override { return true; } // for MIDI learn
    bool producesMidi() const override { return false; }
    int getNumPrograms() override { return 1; }
    int getCurrentProgram() override { return 0; }
    void setCurrentProgram(int) override {}
    const juce::String getProgramName(int) override { return {}; }
    void changeProgramName(int, const juce::String&) override {}

    // --- for the editor and tests; not for the audio thread ---
    Settings settings() const;                   ///< the user's own; the environment may win over them
    void changeSettings(const Settings& wanted); ///< by the user: the host is told that the project has changed
    std::string engineEndpoint() const { return link.endpoint(); }
    Editing& editing() { return edits; }          ///< message thread
    TimelineHistory& timeline() { return heard; } ///< message thread
    ClipKeeper& clip() { return clips; }
    ReferenceKeeper& references() { return referenceAudio; }
    EngineStart& engineStart() { return starter; }
    const EngineStart& engineStart() const { return starter; }
    const RenderRecorder& renders() const { return recorder; }
    Meters& meters() { return numbers.meters; }
    FreezeKeeper& frozen() { return freezer; }
    const FreezeKeeper& frozen() const { return freezer; }
    void setFrozen(bool wanted);        ///< by the user: the last complete render, or nothing. Message thread
    bool isFrozenStale() const;         ///< by today's configuration or engine, or by what was heard of the input
    std::shared_ptr<Loop> loop() const; ///< null in Stream
    std::int64_t playheadFrame() const noexcept; ///< of the last block, on the timeline
    WireLaneValues wireLanes() const;            ///< as the host has them now
    const LaneParameters& lanes() const { return parameters; }
    const Telemetry& telemetry() const { return numbers; }
    LinkStatus linkStatus() const { return link.status(); }
    void acknowledgeErrors();
    bool hasErrors() const;                 ///< to acknowledge
    std::optional<Problem> problem() const; ///< of files and the engine's start, the most urgent
    bool isRateSupported() const { return rateIsSupported; }
    int longestBlock() const { return longest.load(std::memory_order_relaxed); } ///< samples, since prepareToPlay

private:
    SettingsAccess makeSettingsAccess();
    void announceLatency();
    int streamRate() const;
    int startPlayer(bool audioIsRunning);
    bool keepsLoop(int rate) const;
    std::shared_ptr<Player> makePlayer(int rate);
    void restartPlayer();
    bool applySettings(const Settings& wanted);
    Transport readTransport() const noexcept;
    void timerCallback() override;
    void drainNotes();
    void sendDrawing(std::size_t lane, std::int64_t first, const std::vector<float>& values);
    void rememberEngine(const LinkStatus& status);
    void readControls(Controls& controls, bool forceBypass) const noexcept;
    void process(juce::AudioBuffer<float>&, const juce::MidiBuffer&, bool forceBypass);
    void processStereo(Player&, std::array<float*, 2> audio, int count, const Transport&, const Controls&);
    void processRealtime(Player&, std::array<float*, 2> audio, int count, const Transport&,
                         const Controls&) noexcept DEMON_NONBLOCKING;
    void processOffline(Player&, std::array<float*, 2> audio, int count, const Transport&, const Controls&);

    LaneParameters parameters{*this};
    Telemetry numbers;
    EpochNumbers epochs;

    mutable std::mutex mutex; ///< guards the next three; never taken by the audio thread
    Settings current;
    Handover<Player> players;       ///< the owner's side only
    std::shared_ptr<Player> newest; ///< of the players

    const Player* playing = nullptr;         ///< audio thread: of the last block
    std::int64_t continuation = 0;           ///< audio thread: where a host that plays goes on
    OutputTail tail;                         ///< audio thread
    std::vector<float> second;               ///< the right side of a mono host's signal
    std::atomic<bool> resetRequested{false}; ///< for the next block
    std::atomic<LatePolicy> latePolicy{LatePolicy::dry};
    std::atomic<bool> cycles{false}, limits{false}, limitsBounces{false};
    std::atomic<float> matchGain{0.0f};
    std::atomic<std::int64_t> timeoutNanoseconds{0};
    std::atomic<std::int64_t> hostSample{0};
    std::atomic<int> longest{0};
    std::atomic<bool> rateIsSupported{true};

    TimelineHistory heard;
    Editing edits{*this, parameters, makeSettingsAccess()};

    EngineStart starter;
    const UserSettings user; ///< as they were when the plugin was inserted
    RenderRecorder recorder;
    EngineLink link; ///< its thread ends before anything that it uses
    ReferenceKeeper referenceAudio;
    ClipKeeper clips;
    FreezeKeeper freezer; ///< its thread restarts the player: it ends before anything else
};
} // namespace demon
