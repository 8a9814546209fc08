// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <juce_audio_processors/juce_audio_processors.h>
#include <memory>
#include <mutex>
#include <string>

#include "Editing.h"
#include "LaneParameters.h"
#include "PluginState.h"
#include "TimelineHistory.h"
#include "core/Handover.h"
#include "core/Realtime.h"
#include "core/Stream.h"
#include "link/EngineLink.h"

namespace demon
{
/// The plugin. Joins the host to a Stream (audio thread) and an EngineLink (its own thread); all state lives here, none
/// in the editor.
///
/// Threads: processBlock is the audio thread's and real-time safe while the host plays in real time; reset may be
/// called from any thread; settings and state from any but the audio thread.
class PluginProcessor : public juce::AudioProcessor
{
public:
    PluginProcessor();

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
    const LaneParameters& lanes() const { return parameters; }
    const Telemetry& telemetry() const { return numbers; }
    LinkStatus linkStatus() const { return link.status(); }
    void acknowledgeErrors();
    bool isRateSupported() const { return rateIsSupported; }
    int longestBlock() const { return longest.load(std::memory_order_relaxed); } ///< samples, since prepareToPlay

private:
    SettingsAccess makeSettingsAccess();
    void announceLatency();
    int streamRate() const;
    int startStream(bool audioIsRunning);
    bool applySettings(const Settings& wanted);
    Transport readTransport() const noexcept;
    void processRealtime(Stream&, juce::AudioBuffer<float>&, const Transport&,
                         const Controls&) noexcept DEMON_NONBLOCKING;
    void processOffline(Stream&, juce::AudioBuffer<float>&, const Transport&, const Controls&);
    void process(juce::AudioBuffer<float>&, const juce::MidiBuffer&, bool forceBypass);

    LaneParameters parameters{*this};
    Telemetry numbers;
    EpochNumbers epochs;

    mutable std::mutex mutex; ///< guards the next two; never taken by the audio thread
    Settings current;
    Handover<Stream> streams; ///< the owner's side only

    std::atomic<bool> resetRequested{false}; ///< for the next block
    std::atomic<LatePolicy> latePolicy{LatePolicy::dry};
    std::atomic<std::int64_t> timeoutNanoseconds{0};
    std::atomic<int> longest{0};
    std::atomic<bool> rateIsSupported{true};

    TimelineHistory heard;
    Editing edits{*this, parameters, makeSettingsAccess()};

    EngineLink link; ///< last: its thread ends before anything that it uses
};
} // namespace demon
