// SPDX-License-Identifier: AGPL-3.0-or-later
// Times a plugin in a host: demon_host_bench blocks|load|memory|editor|knob [options] BUNDLE..., and prints one line of
// JSON. Bundles are measured in turn, so that a busy machine disturbs all alike; the result has one entry for each.
//
//   blocks   thread CPU nanoseconds of every block; --size 64, --seconds 10, --automation 1 moves every parameter;
//            --loop 2 makes the transport loop over so many seconds (2 at most, in whole blocks): a plugin in mode Loop
//            captures them first, with feedback, so that an engine makes takes without end; --wet 1 waits for the first
//   load     wall seconds from the file to the first block; --rounds 10
//   memory   bytes that an instance adds to the process, from the second on; --instances 8
//   editor   CPU seconds of the process per second of playing; --shown 1, --rounds 5, --automation 0 (needs a display)
//   knob     wall seconds from a change of Velocity to the first block that sounds otherwise, in mode Loop with an
//            engine, from a loop that has come to rest; --rounds 10, --loop 2 as above
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

#include "HostedPlugin.h"

using namespace host;

namespace
{
struct Options
{
    std::vector<std::string> bundles;
    std::map<std::string, double> numbers;

    double number(const std::string& name, double otherwise) const
    {
        const auto found = numbers.find(name);
        return found != numbers.end() ? found->second : otherwise;
    }
};

using Series = std::vector<std::vector<double>>; ///< by bundle

double now(clockid_t clock)
{
    timespec time{};
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

double residentBytes()
{
    std::ifstream file("/proc/self/statm");
    double whole = 0.0, resident = 0.0;
    file >> whole >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

void advance(Transport& transport, int samples)
{
    transport.sample += samples;
    if (transport.sample == transport.loopEnd)
        transport.sample = transport.loopStart;
}

void set(HostedPlugin& plugin, const char* parameter, float value)
{
    for (juce::AudioProcessorParameter* each : plugin.parameters())
        if (each->getName(128) == parameter)
            each->setValue(value);
}

/// Once through the host's loop.
void captureLoop(HostedPlugin& plugin, double seconds)
{
    plugin.transport.loopEnd = static_cast<juce::int64>(seconds * 48000.0);
    plugin.play(noise(static_cast<int>(plugin.transport.loopEnd)), {plugin.instance->getBlockSize()});
}

/// Plays until what comes out is not what goes in.
void awaitTake(HostedPlugin& plugin)
{
    const Audio input = noise(plugin.instance->getBlockSize());
    for (const double until = now(CLOCK_MONOTONIC) + 60e9; now(CLOCK_MONOTONIC) < until; passMessages(1))
        for (int block = 0; block < 100; ++block)
        {
            Audio output(input);
            plugin.process(output);
            advance(plugin.transport, input.getNumSamples());
            if (output.getSample(0, 0) != input.getSample(0, 0))
                return;
        }
    throw std::runtime_error("no take is to be heard");
}

Series timeBlocks(const Options& options)
{
    const int size = static_cast<int>(options.number("size", 64));
    const auto rounds = static_cast<int>(options.number("seconds", 10) * 48000.0 / size);
    std::vector<std::unique_ptr<HostedPlugin>> plugins;
    for (const std::string& bundle : options.bundles)
        plugins.push_back(std::make_unique<HostedPlugin>(48000.0, size, false, bundle));
    passMessages(1000); // the engine, if there is one, has been found
    if (const double seconds = options.number("loop", 0); seconds > 0)
        for (const auto& plugin : plugins)
        {
            set(*plugin, "Feedback", 0.5f);
            captureLoop(*plugin, seconds);
        }
    if (options.number("wet", 0) > 0)
        awaitTake(*plugins.front());
    std::mt19937 random(1);
    std::uniform_real_distribution<float> values(0.0f, 1.0f);
    const Audio input = noise(size);
    Series series(plugins.size());
    const double startedAt = now(CLOCK_MONOTONIC);
    for (int round = 0; round < rounds; ++round)
    {
        for (std::size_t k = 0; k < plugins.size(); ++k)
        {
            if (options.number("automation", 0) > 0)
                for (juce::AudioProcessorParameter* each : plugins[k]->parameters())
                    if (!each->isDiscrete())
                        each->setValue(values(random));
            Audio block(input);
            const double before = now(CLOCK_THREAD_CPUTIME_ID);
            plugins[k]->process(block);
            series[k].push_back(now(CLOCK_THREAD_CPUTIME_ID) - before);
            advance(plugins[k]->transport, size);
        }
        const double due = startedAt + (round + 1) * (size / 48000.0) * 1e9 - now(CLOCK_MONOTONIC);
        if (due > 0.0)
            usleep(static_cast<useconds_t>(due / 1e3));
    }
    return series;
}

/// A pass through the loop in real time, block by block; `heard` says whether to go on.
void playPass(HostedPlugin& plugin, const Audio& silence, const std::function<bool(int, const Audio&)>& heard)
{
    const int size = silence.getNumSamples(), blocks = static_cast<int>(plugin.transport.loopEnd) / size;
    const double startedAt = now(CLOCK_MONOTONIC);
    for (int block = 0; block < blocks; ++block)
    {
        Audio output(silence);
        plugin.process(output);
        advance(plugin.transport, size);
        if (!heard(block, output))
            return;
        const double due = startedAt + (block + 1) * (size / 48000.0) * 1e9 - now(CLOCK_MONOTONIC);
        if (due > 0.0)
            usleep(static_cast<useconds_t>(due / 1e3));
    }
}

std::vector<Audio> passOf(HostedPlugin& plugin, const Audio& silence)
{
    std::vector<Audio> pass;
    plugin.transport.sample = 0;
    playPass(plugin, silence,
             [&](int, const Audio& output)
             {
                 pass.push_back(output);
                 return true;
             });
    return pass;
}

bool isSame(const Audio& a, const Audio& b)
{
    for (int channel = 0; channel < a.getNumChannels(); ++channel)
        if (!std::equal(a.getReadPointer(channel), a.getReadPointer(channel) + a.getNumSamples(),
                        b.getReadPointer(channel)))
            return false;
    return true;
}

/// Plays until kSamePasses passes in a row are the same, and not silence: no take is on its way any more.
std::vector<Audio> passAtRest(HostedPlugin& plugin, const Audio& silence)
{
    constexpr int kSamePasses = 4;
    std::vector<Audio> before = passOf(plugin, silence);
    for (int round = 0, same = 1; round < 60; ++round)
    {
        std::vector<Audio> pass = passOf(plugin, silence);
        const bool isSilent = std::all_of(pass.begin(), pass.end(), [&](const Audio& a) { return isSame(a, silence); });
        same = !isSilent && std::equal(pass.begin(), pass.end(), before.begin(), isSame) ? same + 1 : 1;
        if (same == kSamePasses)
            return pass;
        before = std::move(pass);
    }
    throw std::runtime_error("the loop does not come to rest");
}

Series timeKnob(const Options& options)
{
    Series series;
    std::mt19937 random(1);
    for (const std::string& bundle : options.bundles)
    {
        HostedPlugin plugin(48000.0, 64, false, bundle);
        passMessages(1000);
        captureLoop(plugin, options.number("loop", 2));
        Audio silence(2, 64);
        silence.clear();
        series.emplace_back();
        for (int round = 0; round < static_cast<int>(options.number("rounds", 10)); ++round)
        {
            const std::vector<Audio> rest = passAtRest(plugin, silence);
            plugin.transport.sample = 0;
            const int turnedAt = static_cast<int>(random() % (rest.size() / 4));
            double turned = 0.0, took = 0.0;
            const auto listen = [&](int block, const Audio& output)
            {
                if (turned > 0.0 && !isSame(output, rest[static_cast<std::size_t>(block)]))
                    took = (now(CLOCK_MONOTONIC) - turned) * 1e-9;
                if (block == turnedAt && turned == 0.0)
                {
                    set(plugin, "Velocity", round % 2 == 0 ? 0.4f : 0.6f);
                    turned = now(CLOCK_MONOTONIC);
                }
                return took == 0.0;
            };
            for (int pass = 0; pass < 10 && took == 0.0; ++pass)
                playPass(plugin, silence, listen);
            if (took == 0.0)
                throw std::runtime_error("the knob is not heard");
            series.back().push_back(took);
        }
    }
    return series;
}

Series timeLoading(const Options& options)
{
    Series series(options.bundles.size());
    for (int round = 0; round < static_cast<int>(options.number("rounds", 10)); ++round)
        for (std::size_t k = 0; k < options.bundles.size(); ++k)
        {
            const double before = now(CLOCK_MONOTONIC);
            HostedPlugin plugin(48000.0, 512, false, options.bundles[k]);
            plugin.play(noise(512), {512});
            series[k].push_back((now(CLOCK_MONOTONIC) - before) * 1e-9);
        }
    return series;
}

Series weighInstances(const Options& options)
{
    Series series(options.bundles.size());
    for (std::size_t k = 0; k < options.bundles.size(); ++k)
    {
        std::vector<std::unique_ptr<HostedPlugin>> plugins;
        double before = 0.0;
        for (int instance = 0; instance < static_cast<int>(options.number("instances", 8)); ++instance)
        {
            plugins.push_back(std::make_unique<HostedPlugin>(48000.0, 512, false, options.bundles[k]));
            for (int second = 0; second < 7; ++second) // past the latency: all memory has been touched
            {
                plugins.back()->play(noise(48000), {512});
                passMessages(20); // what is captured must not come faster than it is taken
            }
            const double resident = residentBytes();
            if (instance > 0)
                series[k].push_back(resident - before);
            before = resident;
        }
    }
    return series;
}

Series weighEditor(const Options& options)
{
    Series series(options.bundles.size());
    std::mt19937 random(1);
    std::uniform_real_distribution<float> values(0.0f, 1.0f);
    for (std::size_t k = 0; k < options.bundles.size(); ++k)
    {
        HostedPlugin plugin(48000.0, 512, false, options.bundles[k]);
        if (!plugin.instance->hasEditor())
            continue;
        std::unique_ptr<juce::AudioProcessorEditor> editor;
        if (options.number("shown", 1) > 0)
        {
            editor.reset(plugin.instance->createEditorIfNeeded());
            editor->setOpaque(true);
            editor->addToDesktop(juce::ComponentPeer::windowIsTemporary);
            editor->setVisible(true);
        }
        passMessages(1000);
        const Audio input = noise(512);
        for (int round = 0; round < static_cast<int>(options.number("rounds", 5)); ++round)
        {
            const double cpu = now(CLOCK_PROCESS_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
            while (now(CLOCK_MONOTONIC) < wall + 1e9)
            {
                if (options.number("automation", 0) > 0)
                    for (juce::AudioProcessorParameter* each : plugin.parameters())
                        if (!each->isDiscrete())
                            each->setValue(values(random));
                plugin.play(input, {512});
                passMessages(10);
            }
            series[k].push_back((now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (now(CLOCK_MONOTONIC) - wall));
        }
    }
    return series;
}

Options parse(int count, char** arguments)
{
    Options options;
    for (int i = 2; i < count; ++i)
    {
        const std::string argument = arguments[i];
        if (argument.rfind("--", 0) == 0 && i + 1 < count)
            options.numbers[argument.substr(2)] = std::stod(arguments[++i]);
        else
            options.bundles.push_back(argument);
    }
    return options;
}

void print(const Series& series)
{
    std::cout << "[";
    for (std::size_t k = 0; k < series.size(); ++k)
    {
        std::cout << (k > 0 ? ", [" : "[");
        for (std::size_t i = 0; i < series[k].size(); ++i)
            std::cout << (i > 0 ? ", " : "") << series[k][i];
        std::cout << "]";
    }
    std::cout << "]\n";
}
} // namespace

int main(int count, char** arguments)
{
    const std::map<std::string, Series (*)(const Options&)> kinds{{"blocks", timeBlocks},
                                                                  {"load", timeLoading},
                                                                  {"memory", weighInstances},
                                                                  {"editor", weighEditor},
                                                                  {"knob", timeKnob}};
    const auto kind = kinds.find(count > 1 ? arguments[1] : "");
    if (kind == kinds.end())
    {
        std::cerr << "blocks, load, memory, editor or knob?\n";
        return 2;
    }
    try
    {
        const juce::ScopedJuceInitialiser_GUI juceRuntime;
        print(kind->second(parse(count, arguments)));
        return 0;
    }
    catch (const std::exception& problem)
    {
        std::cerr << problem.what() << "\n";
        return 1;
    }
}
