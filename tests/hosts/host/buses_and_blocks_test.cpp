// SPDX-License-Identifier: AGPL-3.0-or-later
// Bus layouts, rates, sizes of blocks, and the ways in which a host starts and stops a plugin.
#include <fstream>
#include <memory>
#include <vector>

#include "checks.h"

using namespace host;

namespace
{
constexpr double kRates[] = {44100.0, 48000.0, 88200.0, 96000.0, 176400.0, 192000.0};
const Blocks kVarying{1, 0, 333, 64, 0, 0, 2048, 700, 17, 4096, 3};

/// Threads of this process with this name.
int threadsNamed(const std::string& name)
{
    int found = 0;
    for (const auto& entry :
         juce::RangedDirectoryIterator(juce::File("/proc/self/task"), false, "*", juce::File::findDirectories))
    {
        std::ifstream file(entry.getFile().getChildFile("comm").getFullPathName().toStdString());
        std::string found_name;
        std::getline(file, found_name);
        found += found_name.rfind(name, 0) == 0 ? 1 : 0;
    }
    return found;
}
} // namespace

TEST_CASE("an instance loads quickly, says what it is, and goes without a trace", "[plugin]")
{
    useEngine(kNobody);
    for (int round = 0; round < 20; ++round)
    {
        const auto begun = std::chrono::steady_clock::now();
        HostedPlugin plugin;
        CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds(1));
        CHECK(plugin.instance->getName().isNotEmpty());
        CHECK(plugin.instance->getTotalNumInputChannels() == 2);
        CHECK(plugin.instance->getTotalNumOutputChannels() == 2);
    }
    CHECK(threadsNamed("ZMQbg") == 0);
}

TEST_CASE("a layout is refused, or played", "[plugin]")
{
    useEngine(kNobody);
    const juce::AudioChannelSet sets[] = {juce::AudioChannelSet::disabled(), juce::AudioChannelSet::mono(),
                                          juce::AudioChannelSet::stereo(), juce::AudioChannelSet::create5point1()};
    HostedPlugin plugin;
    int accepted = 0;
    for (const auto& in : sets)
        for (const auto& out : sets)
        {
            plugin.instance->releaseResources();
            juce::AudioProcessor::BusesLayout layout;
            layout.inputBuses.add(in);
            layout.outputBuses.add(out);
            const bool isTaken = plugin.instance->setBusesLayout(layout);
            accepted += isTaken ? 1 : 0;
            plugin.prepare(48000.0, 512, false);
            const int channels =
                std::max(plugin.instance->getTotalNumInputChannels(), plugin.instance->getTotalNumOutputChannels());
            Audio block(std::max(channels, 1), 512);
            block.clear();
            for (int k = 0; k < 20; ++k)
                plugin.process(block);
            CAPTURE(in.getDescription().toStdString(), out.getDescription().toStdString(), isTaken);
            CHECK(isFinite(block));
        }
    CHECK(accepted > 0);
}

TEST_CASE("at every rate, in blocks of any size, the dry signal comes after the reported latency", "[plugin]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    for (const double rate : kRates)
        for (const Blocks& blocks : {Blocks{1024}, kVarying})
        {
            plugin.prepare(rate, 4096, false);
            CHECK(plugin.latency() == static_cast<int>(0.2 * rate));
            const Audio input = noise(60000);
            plugin.transport.sample = 0;
            CAPTURE(rate, blocks.size());
            CHECK(firstDifference(plugin.play(input, blocks), input, plugin.latency()) == -1);
        }
}

TEST_CASE("blocks of one sample and of none change nothing", "[plugin]")
{
    useEngine(kNobody, "0.04");
    HostedPlugin plugin;
    const Audio input = noise(6000);
    CHECK(firstDifference(plugin.play(input, {1}), input, plugin.latency()) == -1);
    plugin.prepare(48000.0, 512, false);
    plugin.transport.sample = 0;
    CHECK(firstDifference(plugin.play(input, {0, 0, 512, 0}), input, plugin.latency()) == -1);
    Audio nothing(2, 0);
    for (int k = 0; k < 1000; ++k)
        plugin.process(nothing);
}

TEST_CASE("suspended and resumed it starts afresh, and the latency stays", "[plugin]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    const int latency = plugin.latency();
    for (int round = 0; round < 20; ++round)
    {
        const Audio input = noise(20000, static_cast<unsigned>(round + 1));
        CAPTURE(round);
        CHECK(firstDifference(plugin.play(input, {480}), input, latency) == -1);
        if (round % 2 == 0)
        {
            plugin.instance->suspendProcessing(true);
            plugin.instance->suspendProcessing(false);
            plugin.instance->reset();
        }
        plugin.prepare(48000.0, 480, false);
        CHECK(plugin.latency() == latency);
    }
}

TEST_CASE("bypassed it keeps its latency", "[plugin]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    const int latency = plugin.latency();
    auto* const bypass = plugin.instance->getBypassParameter();
    REQUIRE(bypass != nullptr);
    const Audio input = noise(96000);
    int blocks = 0;
    const Audio output = plugin.play(input, {512}, [&] { bypass->setValue(++blocks / 20 % 2 == 0 ? 0.0f : 1.0f); });
    CHECK(plugin.latency() == latency);
    CHECK(firstDifference(output, input, latency) == -1);
}

TEST_CASE("what is not a number does not get through", "[plugin]")
{
    useEngine(kNobody, "0.04");
    HostedPlugin plugin;
    Audio input = noise(20000);
    for (int i = 0; i < 20000; i += 100)
        input.setSample(i / 100 % 2, i, i % 200 == 0 ? NAN : INFINITY);
    CHECK(isFinite(plugin.play(input, {256})));
    const Audio clean = noise(20000);
    plugin.prepare(48000.0, 512, false);
    CHECK(firstDifference(plugin.play(clean, {256}), clean, plugin.latency()) == -1);
}

TEST_CASE("eight instances play at once and go in any order", "[plugin]")
{
    useEngine(kNobody, "0.2");
    std::vector<std::unique_ptr<HostedPlugin>> plugins;
    for (int k = 0; k < 8; ++k)
        plugins.push_back(std::make_unique<HostedPlugin>());
    std::vector<std::unique_ptr<Player>> players;
    for (const auto& plugin : plugins)
        players.push_back(std::make_unique<Player>(*plugin, 128));
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    for (const auto& player : players)
        CHECK(player->blocks() > 20);
    for (const std::size_t k : {3u, 0u, 7u})
    {
        CHECK(players[k]->wasFinite());
        players[k].reset();
        plugins[k].reset();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
}

TEST_CASE("eight instances share one ZeroMQ context", "[engine]")
{
    useEngine(kNobody);
    std::vector<std::unique_ptr<HostedPlugin>> plugins;
    for (int k = 0; k < 8; ++k)
        plugins.push_back(std::make_unique<HostedPlugin>());
    std::this_thread::sleep_for(std::chrono::milliseconds(300)); // link threads open their sockets
    CHECK(threadsNamed("ZMQbg/IO") == 1);
    CHECK(threadsNamed("ZMQbg/Reaper") == 1);
}
