// SPDX-License-Identifier: AGPL-3.0-or-later
// The audio thread's part of the processor: what the host says in a block goes to the player, and nothing waits but in
// a bounce.
#include <algorithm>
#include <limits>

#include "PluginProcessor.h"
#include "RealtimeHooks.h"

namespace demon
{
namespace
{
constexpr std::int64_t kNowhere = std::numeric_limits<std::int64_t>::min();
}

Transport PluginProcessor::readTransport() const noexcept
{
    Transport transport;
    transport.offline = isNonRealtime();
    const juce::AudioPlayHead* host = getPlayHead();
    const auto position = host != nullptr ? host->getPosition() : juce::nullopt;
    if (!position)
        return transport;
    transport.playing = position->getIsPlaying();
    if (const auto sample = position->getTimeInSamples())
    {
        transport.hasPosition = true;
        transport.sample = *sample;
    }
    const auto ppq = position->getPpqPosition();
    const auto bpm = position->getBpm();
    if (ppq && bpm)
    {
        transport.hasMusic = true;
        transport.ppq = *ppq;
        transport.bpm = *bpm;
    }
    return transport;
}

void PluginProcessor::processBlock(juce::AudioBuffer<float>& buffer, juce::MidiBuffer& midi)
{
    process(buffer, midi, false);
}

void PluginProcessor::processBlockBypassed(juce::AudioBuffer<float>& buffer, juce::MidiBuffer& midi)
{
    process(buffer, midi, true);
}

void PluginProcessor::readControls(Controls& controls, bool forceBypass) const noexcept
{
    parameters.read(controls);
    controls.bypassed = controls.bypassed || forceBypass;
    controls.latePolicy = latePolicy.load(std::memory_order_relaxed);
    controls.outside = cycles.load(std::memory_order_relaxed) ? OutsidePolicy::cycle : OutsidePolicy::dry;
    controls.limit = limits.load(std::memory_order_relaxed);
    controls.limitOffline = limitsBounces.load(std::memory_order_relaxed);
    controls.matchGainDb = matchGain.load(std::memory_order_relaxed);
}

void PluginProcessor::process(juce::AudioBuffer<float>& buffer, const juce::MidiBuffer& midi, bool forceBypass)
{
    if (isNonRealtime())
        freezer.settle(); // a bounce must not begin before what is frozen is in memory
    const RealtimeSection section;
    edits.midi.collect(midi);
    const juce::ScopedNoDenormals noDenormals;
    ProbeLog* const probe = link.probe();
    const std::int64_t startedAt = probe != nullptr ? steadyNanoseconds() : 0;

    Player* const player = players.current();
    const int inputs = getMainBusNumInputChannels(), outputs = buffer.getNumChannels();
    if (player == nullptr || outputs < 1)
        return;
    if (resetRequested.exchange(false, std::memory_order_acq_rel))
    {
        player->requestReset();
        tail.reset();
    }
    if (buffer.getNumSamples() > longest.load(std::memory_order_relaxed))
        longest.store(buffer.getNumSamples(), std::memory_order_relaxed);

    Transport transport = readTransport();
    hostSample.store(transport.sample, std::memory_order_relaxed);
    Controls controls;
    readControls(controls, forceBypass);
    const Transport asSaid = transport;
    float* const left = buffer.getWritePointer(0);
    float* const right = outputs > 1 ? buffer.getWritePointer(1) : nullptr;
    for (int done = 0; done < buffer.getNumSamples();)
    {
        const int count = right != nullptr ? buffer.getNumSamples()
                                           : std::min(buffer.getNumSamples() - done, static_cast<int>(second.size()));
        float* const side = right != nullptr ? right : second.data();
        if (right == nullptr || inputs < 2)
            std::copy_n(left + done, count, side);
        processStereo(*player, {left + done, side}, count, transport, controls);
        if (right == nullptr)
            for (int i = 0; i < count; ++i)
                left[done + i] = 0.5f * (left[done + i] + side[i]); // of two equal values: that value
        done += count;
        transport.sample += count;
        transport.ppq += count / getSampleRate() * transport.bpm / 60.0;
    }

    if (probe != nullptr)
        probe->record({buffer.getNumSamples(), asSaid, player->lastBlock(), controls.lanes[lane::denoise],
                       controls.lanes[lane::mix], steadyNanoseconds() - startedAt});
}

void PluginProcessor::processStereo(Player& player, std::array<float*, 2> audio, int count, const Transport& transport,
                                    const Controls& controls)
{
    const bool isOther = playing != nullptr && playing != &player;
    playing = &player;
    if (isOther && !transport.offline && transport.playing && transport.sample == continuation)
        player.takeOver();
    continuation = transport.playing ? transport.sample + count : kNowhere;
    if (transport.offline)
    {
        processOffline(player, audio, count, transport, controls);
        tail.reset(); // a bounce does not hear what sounded before it
        return;
    }
    processRealtime(player, audio, count, transport, controls);
    tail.process(audio, static_cast<std::size_t>(count), isOther, player.silenceAtFirst());
}

void PluginProcessor::processRealtime(Player& player, std::array<float*, 2> audio, int count,
                                      const Transport& transport, const Controls& controls) noexcept DEMON_NONBLOCKING
{
    NeverWait waiter;
    player.process(audio, count, transport, controls, waiter);
}

void PluginProcessor::processOffline(Player& player, std::array<float*, 2> audio, int count, const Transport& transport,
                                     const Controls& controls)
{
    OfflineWait waiter(link.signs(), timeoutNanoseconds.load(std::memory_order_relaxed));
    player.process(audio, count, transport, controls, waiter);
}
} // namespace demon
