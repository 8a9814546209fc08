// SPDX-License-Identifier: AGPL-3.0-or-later
// Parameters and programs as hosts use them: text, automation, several threads at once.
#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "checks.h"

using namespace host;

TEST_CASE("every parameter has a name of its own and a default in range", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    std::set<juce::String> names;
    for (juce::AudioProcessorParameter* each : plugin.parameters())
    {
        const juce::String name = each->getName(128);
        CAPTURE(name.toStdString());
        CHECK(name.isNotEmpty());
        CHECK(names.insert(name).second);
        CHECK((each->getDefaultValue() >= 0.0f && each->getDefaultValue() <= 1.0f));
        CHECK(each->getValue() == Approx(each->getDefaultValue()).margin(1e-6));
    }
    CHECK(names.size() > 1);
}

TEST_CASE("a parameter's text leads back to its value", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    for (juce::AudioProcessorParameter* each : plugin.parameters())
        for (const float value : {0.0f, 0.1f, 0.25f, 0.5f, 0.6f, 0.75f, 0.99f, 1.0f})
        {
            const juce::String text = each->getText(value, 64);
            CAPTURE(each->getName(64).toStdString(), value, text.toStdString());
            CHECK(text.isNotEmpty());
            const float back = each->getValueForText(text);
            if (!each->isDiscrete())
                CHECK(back == Approx(value).margin(0.02)); // texts are rounded
            CHECK(each->getText(back, 64) == text);
        }
}

TEST_CASE("text that is no value does no harm", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    for (juce::AudioProcessorParameter* each : plugin.parameters())
        for (const char* text :
             {"", " ", "-", "nan", "inf", "1e99", "-1e99", "six", "0.5 0.6", "\xf0\x9f\x8e\xb9", "%n%s"})
        {
            const float value = each->getValueForText(juce::String::fromUTF8(text));
            CAPTURE(each->getName(64).toStdString(), text, value);
            CHECK((value >= 0.0f && value <= 1.0f));
        }
}

TEST_CASE("values hold, also those out of range", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    const Audio input = noise(512);
    for (const float value : {1.0f, 0.0f, 0.3f})
    {
        for (juce::AudioProcessorParameter* each : plugin.parameters())
            each->setValue(value);
        CHECK(isFinite(plugin.play(input, {64})));
        passMessages(50);
        for (juce::AudioProcessorParameter* each : plugin.parameters())
            if (!each->isDiscrete())
                CHECK(each->getValue() == Approx(value).margin(1e-5));
    }
    for (const float value : {-1.0f, 2.0f, 1e30f, -1e30f, NAN, INFINITY})
    {
        for (juce::AudioProcessorParameter* each : plugin.parameters())
            each->setValue(value);
        CHECK(isFinite(plugin.play(input, {64})));
    }
}

TEST_CASE("programs can be walked through", "[plugin]")
{
    useEngine(kNobody);
    HostedPlugin plugin;
    const Audio input = noise(512);
    CHECK(plugin.instance->getNumPrograms() >= 0);
    for (int program = 0; program < plugin.instance->getNumPrograms(); ++program)
    {
        plugin.instance->setCurrentProgram(program);
        plugin.instance->getProgramName(program);
        CHECK(isFinite(plugin.play(input, {64})));
    }
}

TEST_CASE("several threads change parameters at random while it plays", "[plugin]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    Player player(plugin, 64, 4.0);
    std::vector<std::thread> threads;
    std::atomic<bool> quit{false};
    std::atomic<int> running{3};
    for (unsigned seed = 1; seed <= 3; ++seed)
        threads.emplace_back(
            [&, seed]
            {
                std::mt19937 random(seed);
                std::uniform_real_distribution<float> values(0.0f, 1.0f);
                const auto parameters = plugin.parameters();
                while (!quit)
                {
                    auto& parameter =
                        *parameters[static_cast<int>(random() % static_cast<unsigned>(parameters.size()))];
                    parameter.setValue(values(random));
                    parameter.getValueForText(parameter.getText(parameter.getValue(), 32));
                    if (random() % 16 == 0)
                        std::this_thread::sleep_for(std::chrono::microseconds(200));
                }
                --running;
            });
    passMessages(3000);
    quit = true;
    while (running > 0)
        passMessages(10); // texts are asked for with this thread's lock
    for (std::thread& thread : threads)
        thread.join();
    CHECK(player.blocks() > 500);
    CHECK(player.wasFinite());
}

TEST_CASE("a flood of automation, every parameter in every block of 64, stalls neither sound nor link", "[engine]")
{
    FakeEngine engine(freeEndpoint());
    useEngine(engine.address(), "1");
    HostedPlugin plugin(48000.0, 64);
    REQUIRE(hasBeenFound(engine)); // before the user presses play
    const Audio input = noise(4 * 48000);
    std::mt19937 random(7);
    std::uniform_real_distribution<float> values(0.0f, 1.0f);
    Clock clock(plugin.transport);
    const juce::String untouched[] = {"Mix", "Output Gain", "Bypass"};
    const auto flood = [&]
    {
        for (juce::AudioProcessorParameter* each : plugin.parameters())
            if (std::find(std::begin(untouched), std::end(untouched), each->getName(64)) == std::end(untouched))
                each->setValue(values(random));
        clock.wait(64);
    };
    const Audio output = plugin.play(input, {64}, flood);
    CHECK(firstDifference(output, input, plugin.latency(), -1.0f) == -1); // every window came in time
}
