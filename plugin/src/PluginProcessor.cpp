// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginProcessor.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "PluginEditor.h"
#include "RealtimeHooks.h"

namespace demon
{
PluginProcessor::PluginProcessor()
    : AudioProcessor(BusesProperties()
                         .withInput("Input", juce::AudioChannelSet::stereo(), true)
                         .withOutput("Output", juce::AudioChannelSet::stereo(), true)),
      current(environment::initialSettings()),
      link(environment::overridden(current).endpoint, "DEMON " DEMON_VERSION, current.config)
{
    applySettings(current);
}

SettingsAccess PluginProcessor::makeSettingsAccess()
{
    return {[this] { return settings(); }, [this](const Settings& wanted) { changeSettings(wanted); },
            [this](const Settings& wanted) { applySettings(wanted); }};
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
        streams.offer(next);
    else
        streams.replace(next);
    if (rateIsSupported)
        link.attach(next);
    return static_cast<int>(next->latencySamples);
}

void PluginProcessor::reset() { resetRequested.store(true, std::memory_order_release); }

double PluginProcessor::getTailLengthSeconds() const
{
    return getSampleRate() > 0.0 ? getLatencySamples() / getSampleRate() : 0.0;
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

void PluginProcessor::process(juce::AudioBuffer<float>& buffer, const juce::MidiBuffer& midi, bool forceBypass)
{
    const RealtimeSection section;
    edits.midi.collect(midi);
    const juce::ScopedNoDenormals noDenormals;
    ProbeLog* const probe = link.probe();
    const std::int64_t startedAt = probe != nullptr ? steadyNanoseconds() : 0;

    Stream* const stream = streams.current();
    if (stream == nullptr || buffer.getNumChannels() < 2)
        return;
    if (resetRequested.exchange(false, std::memory_order_acq_rel))
        stream->requestReset();
    if (buffer.getNumSamples() > longest.load(std::memory_order_relaxed))
        longest.store(buffer.getNumSamples(), std::memory_order_relaxed);

    const Transport transport = readTransport();
    Controls controls;
    parameters.read(controls);
    controls.bypassed = controls.bypassed || forceBypass;
    controls.latePolicy = latePolicy.load(std::memory_order_relaxed);
    if (transport.offline)
        processOffline(*stream, buffer, transport, controls);
    else
        processRealtime(*stream, buffer, transport, controls);

    if (probe != nullptr)
        probe->record({buffer.getNumSamples(), transport, stream->lastBlock(), controls.lanes[lane::denoise],
                       controls.lanes[lane::mix], steadyNanoseconds() - startedAt});
}

void PluginProcessor::processRealtime(Stream& stream, juce::AudioBuffer<float>& buffer, const Transport& transport,
                                      const Controls& controls) noexcept DEMON_NONBLOCKING
{
    NeverWait waiter;
    stream.process({buffer.getWritePointer(0), buffer.getWritePointer(1)}, buffer.getNumSamples(), transport, controls,
                   waiter);
}

void PluginProcessor::processOffline(Stream& stream, juce::AudioBuffer<float>& buffer, const Transport& transport,
                                     const Controls& controls)
{
    OfflineWait waiter(link.signs(), timeoutNanoseconds.load(std::memory_order_relaxed));
    stream.process({buffer.getWritePointer(0), buffer.getWritePointer(1)}, buffer.getNumSamples(), transport, controls,
                   waiter);
}

Settings PluginProcessor::settings() const
{
    const std::lock_guard lock(mutex);
    return current;
}

void PluginProcessor::changeSettings(const Settings& wanted)
{
    const Settings before = settings();
    if (!applySettings(wanted))
        return;
    edits.history.recordSettings(before, settings());
    updateHostDisplay(ChangeDetails().withNonParameterStateChanged(true));
}

/// A new latency starts a new stream. True when something has changed.
bool PluginProcessor::applySettings(const Settings& wanted)
{
    std::optional<int> newLatency;
    bool hasChanged = false;
    {
        const std::lock_guard lock(mutex);
        const Settings old = std::exchange(current, wanted.sanitised());
        const Settings used = environment::overridden(current);
        hasChanged = !(current == old);
        latePolicy = used.latePolicy;
        timeoutNanoseconds = static_cast<std::int64_t>(used.timeoutSeconds * 1e9);
        link.setConfig(used.config);
        link.setEndpoint(used.endpoint);
        if (used.latencyFrames() != old.latencyFrames() && !streams.isEmpty())
            newLatency = startStream(true);
    }
    if (newLatency)
        setLatencySamples(*newLatency); // the host may call back from here
    return hasChanged;
}

void PluginProcessor::acknowledgeErrors()
{
    numbers.timedOut = false;
    link.acknowledgeError();
}

void PluginProcessor::getStateInformation(juce::MemoryBlock& block)
{
    const auto xml = state::toXml(settings(), parameters);
    xml->addChildElement(edits.toXml().release());
    copyXmlToBinary(*xml, block);
}

namespace
{
/// JUCE reads a text that was cut short as far as it goes; its header says how long the text was.
bool isWhole(const void* data, int size)
{
    constexpr int header = 8;
    if (size < header)
        return false;
    const auto length = juce::ByteOrder::littleEndianInt(static_cast<const char*>(data) + 4);
    return length <= static_cast<juce::uint32>(size - header);
}
} // namespace

void PluginProcessor::setStateInformation(const void* data, int size)
{
    const auto xml = isWhole(data, size) ? getXmlFromBinary(data, size) : nullptr;
    Settings restored = settings();
    if (xml == nullptr || !state::fromXml(*xml, restored, parameters))
        return;
    applySettings(restored);
    edits.history.requestClear();
    if (const juce::XmlElement* part = xml->getChildByName("EDITING"))
        edits.fromXml(*part);
}

juce::AudioProcessorEditor* PluginProcessor::createEditor() { return new PluginEditor(*this); }
} // namespace demon

juce::AudioProcessor* JUCE_CALLTYPE createPluginFilter() { return new demon::PluginProcessor(); }
