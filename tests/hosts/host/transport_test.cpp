// SPDX-License-Identifier: AGPL-3.0-or-later
// Any transport that a host can have, with an engine that answers each frame by its negative: what was played in time
// is the negative of the input, sample by sample, whatever the transport did meanwhile.
#include <vector>

#include "Session.h"
#include "WaitCount.h"

using namespace host;

TEST_CASE("played straight through, every sample is the engine's", "[engine]")
{
    for (const bool offline : {true, false})
    {
        Session session(offline);
        const Audio input = noise(3 * kSecond);
        CAPTURE(offline);
        CHECK(firstDifference(session.play(input, kVarying), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("the host's loop jumps back again and again", "[engine]")
{
    for (const bool offline : {true, false})
    {
        Session session(offline);
        session.plugin.transport.loopStart = 12345;
        session.plugin.transport.loopEnd = 12345 + 31111;
        session.plugin.transport.sample = 12345;
        const Audio input = noise(4 * kSecond);
        CAPTURE(offline);
        CHECK(firstDifference(session.play(input, {512}), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("the user locates while it plays", "[engine]")
{
    const juce::int64 places[] = {0, 480000, 12345, -96000, 1LL << 40, 7};
    for (const bool offline : {true, false})
    {
        Session session(offline);
        const Audio input = noise(4 * kSecond);
        const auto move = [&](int block)
        {
            if (block % 60 == 0)
                session.plugin.transport.sample = places[block / 60 % 6];
        };
        CAPTURE(offline);
        CHECK(firstDifference(session.play(input, {512}, move), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("tempo and meter may change at every block", "[engine]")
{
    for (const bool offline : {true, false})
    {
        Session session(offline);
        const Audio input = noise(3 * kSecond);
        const auto move = [&](int block)
        {
            session.plugin.transport.bpm = 30.0 + 7.3 * (block % 50);
            session.plugin.transport.beats = 1 + block % 13;
            session.plugin.transport.beatUnit = 1 << (block % 5);
        };
        CAPTURE(offline);
        CHECK(firstDifference(session.play(input, {480}, move), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("at every rate every sample is the engine's", "[engine]")
{
    for (const double rate : {44100.0, 88200.0, 96000.0, 176400.0, 192000.0})
    {
        Session session(true, rate);
        const Audio input = noise(static_cast<int>(2.5 * rate));
        CAPTURE(rate);
        CHECK(session.plugin.latency() == static_cast<int>(rate));
        CHECK(firstDifference(session.play(input, kVarying), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("stopped, the delayed dry signal passes; started again, the engine's", "[engine]")
{
    Session session(false);
    const int latency = session.plugin.latency();
    const Audio input = noise(6 * kSecond);
    const int stop = 2 * kSecond / 480, start = 3 * kSecond / 480;
    const auto move = [&](int block)
    {
        session.plugin.transport.playing = block < stop || block >= start;
        if (block == start)
            session.plugin.transport.sample = 0;
    };
    const Audio output = session.play(input, {480}, move);
    const int glide = 2048; // from one to the other without a click
    const Audio wetBefore = part(output, 0, latency + 2 * kSecond), drySince = part(output, 0, latency + 3 * kSecond);
    CHECK(firstDifference(wetBefore, input, latency, -1.0f) == -1);
    CHECK(firstDifference(drySince, input, latency, 1.0f, latency + 2 * kSecond + glide) == -1);
    CHECK(firstDifference(output, input, latency, -1.0f, latency + 3 * kSecond + glide) == -1);
}

TEST_CASE("a host that tells no position is counted for", "[engine]")
{
    Session session(true);
    session.plugin.transport.hasPosition = false;
    const Audio input = noise(3 * kSecond);
    CHECK(firstDifference(session.play(input, kVarying), input, session.plugin.latency(), -1.0f) == -1);
}

TEST_CASE("a host that prefetches runs ahead of real time, and nothing waits", "[engine]")
{
    Session session(false);
    const int latency = session.plugin.latency();
    const Audio input = noise(20 * kSecond);
    const demon::WaitCount waits;
    const Audio output = session.plugin.play(input, {512});
    CHECK(waits.count() <= demon::WaitCount::kUnasked);
    CHECK(isFinite(output));
    int dry = 0, wet = 0, other = 0;
    for (int i = latency; i < output.getNumSamples(); ++i)
    {
        const float value = output.getSample(0, i), played = input.getSample(0, i - latency);
        ++(value == played ? dry : value == -played ? wet : other);
    }
    CHECK(dry + wet > 9 * other); // late windows are the dry signal; between the two there is a glide
}

TEST_CASE("offline and real time alternate", "[engine]")
{
    Session session(true);
    for (int round = 0; round < 6; ++round)
    {
        const bool offline = round % 2 == 0;
        session.plugin.prepare(48000.0, 512, offline);
        session.plugin.transport.sample = round * 1000;
        const Audio input = noise(2 * kSecond, static_cast<unsigned>(round + 1));
        CAPTURE(round, offline);
        CHECK(firstDifference(session.play(input, {512}), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("two bounces are the same, and a bounce after playing is too", "[engine]")
{
    Session session(true);
    const Audio input = noise(3 * kSecond);
    const auto bounce = [&](bool playsBefore)
    {
        session.plugin.prepare(48000.0, 4096, false);
        session.plugin.transport.sample = 5000;
        if (playsBefore)
            session.play(noise(kSecond, 5), {512});
        session.plugin.prepare(48000.0, 4096, true);
        session.plugin.transport.sample = 0;
        return session.play(input, kVarying);
    };
    const Audio first = bounce(false);
    CHECK(firstDifference(bounce(true), first, 0) == -1);
}

TEST_CASE("a new rate while the engine stays is taken over", "[engine]")
{
    Session session(true);
    for (const double rate : {48000.0, 44100.0, 96000.0, 48000.0})
    {
        session.plugin.prepare(rate, 1024, true);
        session.plugin.transport.sample = 0;
        const Audio input = noise(static_cast<int>(2 * rate));
        CAPTURE(rate);
        CHECK(session.plugin.latency() == static_cast<int>(rate));
        CHECK(firstDifference(session.play(input, {777}), input, session.plugin.latency(), -1.0f) == -1);
    }
}

TEST_CASE("eight instances play with one engine", "[engine]")
{
    FakeEngine engine(freeEndpoint());
    useEngine(engine.address(), "1");
    std::vector<std::unique_ptr<HostedPlugin>> plugins;
    for (int k = 0; k < 8; ++k)
        plugins.push_back(std::make_unique<HostedPlugin>(48000.0, 512, k % 2 == 0));
    REQUIRE(hasBeenFound(engine, 8));
    std::vector<Audio> inputs, outputs(plugins.size());
    std::vector<std::thread> threads;
    for (std::size_t k = 0; k < plugins.size(); ++k)
        inputs.push_back(noise(3 * kSecond, static_cast<unsigned>(k + 1)));
    for (std::size_t k = 0; k < plugins.size(); ++k)
        threads.emplace_back(
            [&, k]
            {
                Clock clock(plugins[k]->transport);
                outputs[k] = plugins[k]->play(inputs[k], {512},
                                              [&]
                                              {
                                                  if (!plugins[k]->instance->isNonRealtime())
                                                      clock.wait(512);
                                              });
            });
    for (std::thread& thread : threads)
        thread.join();
    for (std::size_t k = 0; k < plugins.size(); ++k)
    {
        CAPTURE(k);
        CHECK(firstDifference(outputs[k], inputs[k], plugins[k]->latency(), -1.0f) == -1);
    }
    CHECK(engine.hellos >= 8);
}
