// SPDX-License-Identifier: AGPL-3.0-or-later
// Saving and restoring, from the main thread and from others, while it plays and while it does not.
#include <random>

#include "checks.h"

using namespace host;

namespace
{
void randomise(HostedPlugin& plugin, unsigned seed)
{
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> values(0.0f, 1.0f);
    for (juce::AudioProcessorParameter* each : plugin.parameters())
        each->setValue(each->isDiscrete() ? std::round(values(random)) : values(random));
}

std::vector<float> valuesOf(HostedPlugin& plugin)
{
    std::vector<float> values;
    for (juce::AudioProcessorParameter* each : plugin.parameters())
        values.push_back(each->getValue());
    return values;
}

void checkSame(const std::vector<float>& left, const std::vector<float>& right)
{
    REQUIRE(left.size() == right.size());
    for (std::size_t i = 0; i < left.size(); ++i)
    {
        CAPTURE(i);
        CHECK(left[i] == Approx(right[i]).margin(1e-5));
    }
}
} // namespace

TEST_CASE("a saved state opens in another instance", "[plugin]")
{
    useEngine(kNobody);
    for (unsigned seed = 1; seed <= 5; ++seed)
    {
        HostedPlugin plugin;
        randomise(plugin, seed);
        plugin.play(noise(512), {512}); // hosts hand values over with a block
        passMessages(50);
        const std::vector<float> values = valuesOf(plugin);
        const juce::MemoryBlock state = plugin.save();
        HostedPlugin other;
        other.restore(state);
        passMessages(50);
        checkSame(valuesOf(other), values);
        CHECK(other.latency() == plugin.latency());
    }
}

TEST_CASE("restoring twice is restoring once", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    randomise(plugin, 9);
    plugin.play(noise(512), {512});
    const juce::MemoryBlock state = plugin.save();
    plugin.restore(state);
    plugin.restore(state);
    CHECK(plugin.save() == state);
}

TEST_CASE("bytes that are no state do no harm", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    plugin.play(noise(512), {512});
    const juce::MemoryBlock whole = plugin.save();
    std::mt19937 random(11);
    for (int round = 0; round < 200; ++round)
    {
        juce::MemoryBlock damaged(whole);
        damaged.setSize(static_cast<std::size_t>(random() % (whole.getSize() + 1)));
        for (int flips = 0; flips < 3 && damaged.getSize() > 0; ++flips)
            damaged[random() % damaged.getSize()] = static_cast<char>(random() % 256);
        plugin.restore(damaged);
    }
    CHECK(isFinite(plugin.play(noise(4096), {512})));
    plugin.restore(whole);
    CHECK(isFinite(plugin.play(noise(4096), {512})));
}

TEST_CASE("another thread saves and restores while it plays", "[plugin]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    randomise(plugin, 1);
    plugin.play(noise(512), {512});
    const juce::MemoryBlock first = plugin.save();
    randomise(plugin, 2);
    plugin.play(noise(512), {512});
    const juce::MemoryBlock second = plugin.save();
    Player player(plugin, 128, 2.0);
    constexpr int kRounds = 200;
    std::atomic<int> rounds{0}, saved{0};
    std::thread background(
        [&]
        {
            for (; rounds < kRounds; ++rounds)
            {
                plugin.restore(rounds % 2 == 0 ? first : second);
                saved += plugin.save().getSize() > 0 ? 1 : 0;
                std::this_thread::sleep_for(std::chrono::milliseconds(3));
            }
        });
    while (rounds < kRounds)
        passMessages(20); // this thread has to serve the other
    background.join();
    CHECK(saved == kRounds);
    player.stop();
    CHECK(player.wasFinite());
    CHECK(player.blocks() > 100);
}

TEST_CASE("a state with another latency is announced and taken over", "[engine]")
{
    useEngine(kNobody, "0.4");
    HostedPlugin shorter;
    const juce::MemoryBlock state = shorter.save();
    useEngine(kNobody, "2");
    HostedPlugin plugin;
    CHECK(plugin.latency() == 96000);
    plugin.restore(state);
    passMessages(200);
    CHECK(plugin.latency() == 19200);
    const Audio input = noise(96000);
    plugin.prepare(48000.0, 512, false);
    CHECK(firstDifference(plugin.play(input, {512}), input, 19200) == -1);
}
