// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginProcessor.h"

#include <algorithm>
#include <cmath>

#include "PluginEditor.h"
#include "RealtimeHooks.h"

namespace demon
{
PluginProcessor::PluginProcessor()
    : AudioProcessor(BusesProperties()
                         .withInput("Input", juce::AudioChannelSet::stereo(), true)
                         .withOutput("Output", juce::AudioChannelSet::stereo(), true)),
      current(environment::initialSettings()), link(current.endpoint, "DEMON " DEMON_VERSION, current.config)
{
    latePolicy = current.latePolicy;
    timeoutNanoseconds = static_cast<std::int64_t>(current.timeoutSeconds * 1e9);
}

bool PluginProcessor::isBusesLayoutSupported(const BusesLayout& layout) const
{
    // A VST3 host may ask for the latency at the new rate before it activates the plugin (pedalboard and every other
    // host built with JUCE 7 does). Between the new rate and that question JUCE calls nothing that is virtual but this.
    const_cast<PluginProcessor*>(this)->announceLatency();
    return layout.getMainInputChannelSet() == juce::AudioChannelSet::stereo() &&
           layout.getMainOutputChannelSet() == juce::AudioChannelSet::stereo();
}

void PluginProcessor::announceLatency()
{
    if (getSampleRate() > 0.0)
        setLatencySamples(settings().latencyFrames() * FrameGrid::forRate(streamRate()).length);
}

/// An unsupported rate gets a stream that only delays: it still needs frames of some length.
int PluginProcessor::streamRate() const
{
    return std::max(static_cast<int>(std::lround(getSampleRate())), kMinRate / 2);
}

void PluginProcessor::prepareToPlay(double, int)
{
    longest = 0;
    int latency = 0;
    {
        const std::lock_guard lock(mutex);
        latency = startStream(false);
    }
    setLatencySamples(latency); // the host may call back from here
}

/// Builds the stream for the host's rate and the wanted latency. While audio runs, the audio thread takes it over at
/// its next block. The mutex is held. Returns the latency in samples.
int PluginProcessor::startStream(bool audioIsRunning)
{
    const int rate = streamRate();
    rateIsSupported = isSupportedRate(rate);
    const auto next = std::make_shared<Stream>(rate, current.latencyFrames(), epochs, numbers);
    if (audioIsRunning)
    {
        incoming = nullptr; // from here on no older stream can become the active one
        Stream* const inUse = active;
        const auto isLeft = [inUse](const std::shared_ptr<Stream>& stream) { return stream.get() != inUse; };
        streams.erase(std::remove_if(streams.begin(), streams.end(), isLeft), streams.end());
        streams.push_back(next);
        incoming = next.get();
    }
    else
    {
        streams = {next};
        incoming = nullptr;
        active = next.get();
    }
    if (rateIsSupported)
        link.attach(next);
    return static_cast<int>(next->latencySamples);
}

void PluginProcessor::reset()
{
    if (Stream* stream = active)
        stream->requestReset();
}

double PluginProcessor::getTailLengthSeconds() const
{
    return getSampleRate() > 0.0 ? getLatencySamples() / getSampleRate() : 0.0;
}

Stream* PluginProcessor::currentStream() noexcept
{
    if (Stream* next = incoming.exchange(nullptr, std::memory_order_acq_rel))
        active.store(next, std::memory_order_release);
    return active.load(std::memory_order_relaxed);
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

void PluginProcessor::processBlock(juce::AudioBuffer<float>& buffer, juce::MidiBuffer&) { process(buffer, false); }

void PluginProcessor::processBlockBypassed(juce::AudioBuffer<float>& buffer, juce::MidiBuffer&)
{
    process(buffer, true);
}

void PluginProcessor::process(juce::AudioBuffer<float>& buffer, bool forceBypass)
{
    const RealtimeSection section;
    const juce::ScopedNoDenormals noDenormals;
    ProbeLog* const probe = link.probe();
    const std::int64_t startedAt = probe != nullptr ? steadyNanoseconds() : 0;

    Stream* const stream = currentStream();
    if (stream == nullptr || buffer.getNumChannels() < 2)
        return;
    if (buffer.getNumSamples() > longest.load(std::memory_order_relaxed))
        longest.store(buffer.getNumSamples(), std::memory_order_relaxed);

    const Transport transport = readTransport();
    Controls controls;
    parameters.read(controls);
    controls.bypassed = controls.bypassed || forceBypass;
    controls.latePolicy = latePolicy.load(std::memory_order_relaxed);
    if (transport.offline)
        processOffline(buffer, transport, controls);
    else
        processRealtime(buffer, transport, controls);

    if (probe != nullptr)
        probe->record({buffer.getNumSamples(), transport, stream->lastBlock(), controls.lanes[lane::denoise],
                       controls.lanes[lane::mix], steadyNanoseconds() - startedAt});
}

void PluginProcessor::processRealtime(juce::AudioBuffer<float>& buffer, const Transport& transport,
                                      const Controls& controls) noexcept DEMON_NONBLOCKING
{
    NeverWait waiter;
    active.load(std::memory_order_relaxed)
        ->process({buffer.getWritePointer(0), buffer.getWritePointer(1)}, buffer.getNumSamples(), transport, controls,
                  waiter);
}

void PluginProcessor::processOffline(juce::AudioBuffer<float>& buffer, const Transport& transport,
                                     const Controls& controls)
{
    OfflineWait waiter(link.progress(), timeoutNanoseconds.load(std::memory_order_relaxed));
    active.load(std::memory_order_relaxed)
        ->process({buffer.getWritePointer(0), buffer.getWritePointer(1)}, buffer.getNumSamples(), transport, controls,
                  waiter);
}

Settings PluginProcessor::settings() const
{
    const std::lock_guard lock(mutex);
    return current;
}

void PluginProcessor::changeSettings(const Settings& wanted)
{
    std::optional<int> newLatency;
    {
        const std::lock_guard lock(mutex);
        newLatency = applySettings(wanted);
    }
    if (newLatency)
        setLatencySamples(*newLatency); // the host may call back from here
}

/// The mutex is held. Returns the latency in samples when it changes.
std::optional<int> PluginProcessor::applySettings(const Settings& wanted)
{
    const int oldLatency = current.latencyFrames();
    current = wanted.sanitised();
    environment::overrideSettings(current);
    latePolicy = current.latePolicy;
    timeoutNanoseconds = static_cast<std::int64_t>(current.timeoutSeconds * 1e9);
    link.setConfig(current.config);
    link.setEndpoint(current.endpoint);
    if (current.latencyFrames() == oldLatency || streams.empty())
        return std::nullopt;
    return startStream(true);
}

void PluginProcessor::acknowledgeErrors()
{
    numbers.timedOut = false;
    link.acknowledgeError();
}

void PluginProcessor::getStateInformation(juce::MemoryBlock& block)
{
    copyXmlToBinary(*state::toXml(settings(), parameters), block);
}

void PluginProcessor::setStateInformation(const void* data, int size)
{
    const auto xml = getXmlFromBinary(data, size);
    Settings restored = settings();
    if (xml != nullptr && state::fromXml(*xml, restored, parameters))
        changeSettings(restored);
}

juce::AudioProcessorEditor* PluginProcessor::createEditor() { return new PluginEditor(*this); }
} // namespace demon

juce::AudioProcessor* JUCE_CALLTYPE createPluginFilter() { return new demon::PluginProcessor(); }
