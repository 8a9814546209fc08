// SPDX-License-Identifier: AGPL-3.0-or-later
#include "HostedPlugin.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <dlfcn.h>
#include <random>
#include <stdexcept>

namespace host
{
namespace
{
/// JUCE sets properties that only a window manager knows, and X ends a program at the first error unless it says
/// otherwise, as every DAW's toolkit does. JUCE says so in whole applications only.
void outliveErrorsOfX()
{
    using Handler = int (*)(void*, void*);
    if (void* const library = dlopen("libX11.so.6", RTLD_NOW))
        if (const auto set = reinterpret_cast<Handler (*)(Handler)>(dlsym(library, "XSetErrorHandler")))
            set([](void*, void*) { return 0; });
}
} // namespace

juce::Optional<juce::AudioPlayHead::PositionInfo> Transport::getPosition() const
{
    if (!hasPosition)
        return {};
    const auto quarters = [this](juce::int64 at) { return static_cast<double>(at) / rate * bpm / 60.0; };
    const double quartersPerBar = 4.0 * beats / beatUnit;
    PositionInfo info;
    info.setIsPlaying(playing);
    info.setTimeInSamples(sample);
    info.setTimeInSeconds(static_cast<double>(sample) / rate);
    info.setBpm(bpm);
    info.setTimeSignature(TimeSignature{beats, beatUnit});
    info.setPpqPosition(quarters(sample));
    info.setPpqPositionOfLastBarStart(std::floor(quarters(sample) / quartersPerBar) * quartersPerBar);
    info.setIsLooping(loopEnd > loopStart);
    if (loopEnd > loopStart)
        info.setLoopPoints(LoopPoints{quarters(loopStart), quarters(loopEnd)});
    return info;
}

Audio noise(int samples, unsigned seed, int channels)
{
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> values(-0.5f, 0.5f);
    Audio audio(channels, samples);
    for (int channel = 0; channel < channels; ++channel)
        std::generate_n(audio.getWritePointer(channel), samples, [&] { return values(random); });
    return audio;
}

Audio silence(int samples, int channels)
{
    Audio audio(channels, samples);
    audio.clear();
    return audio;
}

Audio part(const Audio& audio, int first, int count)
{
    Audio copy(audio.getNumChannels(), count);
    for (int channel = 0; channel < audio.getNumChannels(); ++channel)
        copy.copyFrom(channel, 0, audio, channel, first, count);
    return copy;
}

bool isFinite(const Audio& audio)
{
    for (int channel = 0; channel < audio.getNumChannels(); ++channel)
        if (!std::all_of(audio.getReadPointer(channel), audio.getReadPointer(channel) + audio.getNumSamples(),
                         [](float value) { return std::isfinite(value); }))
            return false;
    return true;
}

std::string HostedPlugin::bundle()
{
    const char* const path = std::getenv("HOST_BUNDLE");
    if (path == nullptr)
        throw std::runtime_error("HOST_BUNDLE must name a .vst3");
    return path;
}

HostedPlugin::HostedPlugin(double rate, int longestBlock, bool offline, const std::string& path)
{
    outliveErrorsOfX();
    juce::VST3PluginFormat format;
    juce::OwnedArray<juce::PluginDescription> found;
    format.findAllTypesForFile(found, path);
    if (found.isEmpty())
        throw std::runtime_error(path + " holds no VST3 plugin");
    juce::String problem;
    instance = format.createInstanceFromDescription(*found.getFirst(), rate, longestBlock, problem);
    if (instance == nullptr)
        throw std::runtime_error(path + ": " + problem.toStdString());
    instance->setPlayHead(&transport);
    prepare(rate, longestBlock, offline);
}

HostedPlugin::~HostedPlugin() { instance->releaseResources(); }

void HostedPlugin::prepare(double rate, int longestBlock, bool offline)
{
    instance->releaseResources();
    instance->setNonRealtime(offline);
    instance->setRateAndBufferSizeDetails(rate, longestBlock);
    instance->prepareToPlay(rate, longestBlock);
    transport.rate = rate;
}

Audio HostedPlugin::play(const Audio& input, const Blocks& blocks, const std::function<void()>& between)
{
    Audio output(input.getNumChannels(), input.getNumSamples());
    played.clear();
    for (int at = 0, k = 0; at < input.getNumSamples(); ++k)
    {
        int size = std::min(blocks[static_cast<std::size_t>(k) % blocks.size()], input.getNumSamples() - at);
        const bool loops = transport.playing && transport.loopEnd > transport.loopStart;
        if (loops && transport.sample < transport.loopEnd) // hosts end a block where the loop ends
            size = static_cast<int>(std::min<juce::int64>(size, transport.loopEnd - transport.sample));
        Audio block = part(input, at, size);
        process(block);
        for (int channel = 0; channel < output.getNumChannels(); ++channel)
            output.copyFrom(channel, at, block, channel, 0, size);
        at += size;
        for (int i = 0; i < size; ++i)
            played.push_back(transport.playing ? transport.sample + i : kNowhere);
        transport.sample += transport.playing ? size : 0;
        if (loops && transport.sample == transport.loopEnd)
            transport.sample = transport.loopStart;
        between();
    }
    return output;
}

void HostedPlugin::process(Audio& block)
{
    if (block.getNumSamples() > instance->getBlockSize())
        throw std::logic_error("the host breaks its word: a block is longer than the longest it announced");
    midi.clear();
    instance->processBlock(block, midi);
}

juce::MemoryBlock HostedPlugin::save() const
{
    juce::MemoryBlock state;
    instance->getStateInformation(state);
    return state;
}

void HostedPlugin::restore(const juce::MemoryBlock& state)
{
    instance->setStateInformation(state.getData(), static_cast<int>(state.getSize()));
}

void HostedPlugin::useChannels(const juce::AudioChannelSet& channels)
{
    instance->releaseResources();
    juce::AudioProcessor::BusesLayout layout;
    layout.inputBuses.add(channels);
    layout.outputBuses.add(channels);
    if (!instance->setBusesLayout(layout))
        throw std::runtime_error("the layout is refused");
    prepare(instance->getSampleRate(), instance->getBlockSize(), instance->isNonRealtime());
}

juce::AudioProcessorParameter& HostedPlugin::parameter(const juce::String& name) const
{
    for (juce::AudioProcessorParameter* each : instance->getParameters())
        if (each->getName(128) == name)
            return *each;
    throw std::runtime_error("no parameter " + name.toStdString());
}

juce::Array<juce::AudioProcessorParameter*> HostedPlugin::parameters() const
{
    juce::Array<juce::AudioProcessorParameter*> found;
    for (juce::AudioProcessorParameter* each : instance->getParameters())
        if (each->isAutomatable())
            found.add(each);
    return found;
}

void passMessages(int milliseconds) { juce::MessageManager::getInstance()->runDispatchLoopUntil(milliseconds); }
} // namespace host
