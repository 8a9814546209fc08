// SPDX-License-Identifier: AGPL-3.0-or-later
// Mode Loop under any transport, with an engine that answers each frame by its negative: what sounds inside the clip is
// the negative of what was captured there, sample by sample, whatever is played into it and whatever the transport did.
#include <memory>
#include <thread>
#include <vector>

#include "LoopPlugin.h"
#include "WaitCount.h"

using namespace host;

namespace
{
constexpr int kClip = 2 * kSecond;

/// A session whose clip is there from the first sample to the last.
struct PlayingLoop : LoopSession
{
    PlayingLoop(bool offline, juce::int64 start, double rate = 48000.0) : LoopSession(offline, rate)
    {
        const Audio input = noise(static_cast<int>(2 * rate), 17);
        REQUIRE(firstDifference(loop.capture(input, start, kVarying), input, 0) == -1);
        REQUIRE(loop.becomesWhole());
    }
};
} // namespace

TEST_CASE("a loop has no latency, what is captured passes bit for bit, and then every pass is the engine's", "[engine]")
{
    for (const bool offline : {true, false})
        for (const juce::int64 start : {juce::int64(0), juce::int64(12345), -juce::int64(96001), juce::int64(1) << 40})
        {
            LoopSession session(offline);
            CAPTURE(offline, start);
            CHECK(session.plugin.latency() == 0);
            const Audio input = noise(kClip);
            CHECK(firstDifference(session.loop.capture(input, start, kVarying), input, 0) == -1);
            CHECK((offline ? session.loop.isWhole() : session.loop.becomesWhole()));
            for (const Blocks& blocks : {kVarying, Blocks{1, 0, 7}, Blocks{4096}})
            {
                session.plugin.transport.sample = start;
                const Audio other = noise(blocks[0] == 1 ? 6000 : kClip, 5);
                CHECK(session.loop.firstOther(session.plugin.play(other, blocks), other) == -1);
                session.loop.stop();
            }
            CHECK(session.plugin.latency() == 0);
        }
}

TEST_CASE("outside the clip the input passes, inside it the engine's sounds", "[engine]")
{
    for (const bool offline : {true, false})
    {
        PlayingLoop session(offline, 12345);
        session.plugin.transport.sample = -30000;
        const Audio input = noise(4 * kSecond);
        CAPTURE(offline);
        CHECK(session.loop.firstOther(session.plugin.play(input, kVarying), input) == -1);
    }
}

TEST_CASE("the host's loop jumps back again and again over the clip", "[engine]")
{
    for (const bool offline : {true, false})
        for (const auto& [from, to] : {std::pair{0, kClip}, {12345, 43456}, {kSecond, 3 * kSecond}})
        {
            PlayingLoop session(offline, 0);
            session.plugin.transport.loopStart = session.plugin.transport.sample = from;
            session.plugin.transport.loopEnd = to;
            const Audio input = noise(6 * kSecond);
            CAPTURE(offline, from, to);
            CHECK(session.loop.firstOther(session.plugin.play(input, {512}), input) == -1);
        }
}

TEST_CASE("the host's loop ends the capture where it jumps", "[engine]")
{
    for (const bool offline : {true, false})
    {
        LoopSession session(offline);
        session.plugin.transport.loopEnd = kClip;
        const Audio input = noise(kClip);
        CAPTURE(offline);
        CHECK(firstDifference(session.plugin.play(input, {512}), input, 0) == -1);
        session.loop.clip = {input};
        CHECK((offline ? session.loop.isWhole() : session.loop.becomesWhole())); // without ever having stopped
    }
}

TEST_CASE("the user locates while a loop plays", "[engine]")
{
    // None before zero: there JUCE says 0 to a plugin, which only the next block tells from a jump to zero.
    const juce::int64 places[] = {0, 480000, 12345, 3 * kSecond, juce::int64(1) << 40, 7};
    for (const bool offline : {true, false})
    {
        PlayingLoop session(offline, 0);
        int blocks = 0;
        const auto move = [&]
        {
            if (++blocks % 60 == 0)
                session.plugin.transport.sample = places[blocks / 60 % 6];
        };
        session.plugin.transport.sample = 0;
        const Audio input = noise(6 * kSecond);
        CAPTURE(offline);
        CHECK(session.loop.firstOther(session.plugin.play(input, {512}, move), input) == -1);
    }
}

TEST_CASE("stopped, the input passes; started again, the loop's clip", "[engine]")
{
    for (const bool offline : {true, false})
    {
        PlayingLoop session(offline, 0);
        int blocks = 0;
        const auto move = [&]
        {
            session.plugin.transport.playing = ++blocks / 20 % 3 != 1;
            if (blocks % 60 == 0)
                session.plugin.transport.sample = blocks * 100;
        };
        session.plugin.transport.sample = 0;
        const Audio input = noise(4 * kSecond);
        CAPTURE(offline);
        CHECK(session.loop.firstOther(session.plugin.play(input, {480}, move), input) == -1);
    }
}

TEST_CASE("tempo and meter may change at every block of a loop", "[engine]")
{
    for (const bool offline : {true, false})
    {
        LoopSession session(offline);
        int blocks = 0;
        const auto move = [&]
        {
            session.plugin.transport.bpm = 30.0 + 7.3 * (++blocks % 50);
            session.plugin.transport.beats = 1 + blocks % 13;
            session.plugin.transport.beatUnit = 1 << (blocks % 5);
        };
        const Audio input = noise(kClip);
        session.plugin.play(input, {480}, move);
        session.loop.stop();
        session.loop.clip = {input};
        CAPTURE(offline);
        REQUIRE(session.loop.becomesWhole());
        session.plugin.transport.sample = 0;
        CHECK(session.loop.firstOther(session.plugin.play(input, {480}, move), input) == -1);
    }
}

TEST_CASE("at every rate every sample of a loop is the engine's", "[engine]")
{
    for (const double rate : {44100.0, 48000.0, 88200.0, 96000.0, 176400.0, 192000.0})
    {
        PlayingLoop session(rate < 96000.0, 4321, rate);
        CAPTURE(rate);
        CHECK(session.plugin.latency() == 0);
        session.plugin.transport.sample = 0;
        const Audio input = noise(static_cast<int>(2.5 * rate));
        CHECK(session.loop.firstOther(session.plugin.play(input, kVarying), input) == -1);
    }
}

TEST_CASE("a mono track loops too", "[engine]")
{
    for (const bool offline : {true, false})
    {
        LoopSession session(offline);
        session.plugin.useChannels(juce::AudioChannelSet::mono());
        const Audio input = noise(kClip, 3, 1);
        CAPTURE(offline);
        CHECK(firstDifference(session.loop.capture(input, 999, kVarying), input, 0) == -1);
        CHECK(session.loop.becomesWhole());
        CHECK(session.loop.isWhole());
    }
}

TEST_CASE("in a loop a host that prefetches runs ahead of real time, and nothing waits", "[engine]")
{
    LoopSession session(false);
    session.plugin.transport.loopEnd = kClip;
    const Audio input = noise(20 * kSecond);
    const demon::WaitCount waits;
    const Audio output = session.plugin.play(input, {512}); // takes arrive meanwhile, or later
    CHECK(waits.count() <= demon::WaitCount::kUnasked);
    session.loop.clip = {part(input, 0, kClip)};
    int dry = 0, wet = 0, other = 0;
    for (int i = 0; i < output.getNumSamples(); ++i)
    {
        const float value = output.getSample(0, i);
        ++(value == input.getSample(0, i) ? dry : value == -input.getSample(0, i % kClip) ? wet : other);
    }
    CAPTURE(dry, wet, other);
    CHECK(dry >= kClip);
    CHECK(dry + wet > 9 * other);
    CHECK(session.loop.becomesWhole());
}

TEST_CASE("a project with a loop keeps its clip, and the reopened one bounces the same bits", "[engine]")
{
    PlayingLoop session(true, 4321);
    session.plugin.prepare(48000.0, 4096, true);
    session.plugin.transport.sample = 0;
    const Audio input = noise(3 * kSecond);
    const Audio bounce = session.plugin.play(input, kVarying);
    juce::MemoryBlock state;
    REQUIRE(passMessagesUntil([&] { return (state = session.plugin.save()).getSize() > std::size_t{4} * kClip; }));

    useEngine(session.engine.address());
    HostedPlugin reopened(48000.0, 4096, true);
    reopened.restore(state);
    REQUIRE(hasBeenFound(session.engine, 2));
    CHECK(reopened.latency() == 0);
    CHECK(firstDifference(reopened.play(input, {512}), bounce, 0) == -1);
    CHECK(reopened.save().getSize() > std::size_t{4} * kClip);
}

TEST_CASE("offline and real time alternate over one clip", "[engine]")
{
    PlayingLoop session(true, 0);
    for (int round = 0; round < 6; ++round)
    {
        const bool offline = round % 2 == 1;
        session.plugin.prepare(48000.0, 512, offline);
        CAPTURE(round);
        CHECK((offline ? session.loop.isWhole() : session.loop.becomesWhole()));
    }
    CHECK(session.engine.commits == 4); // that of the first bounce, and one each time that the host went offline
}

TEST_CASE("two bounces of a loop are the same, and a bounce after playing is too", "[engine]")
{
    PlayingLoop session(true, 4321);
    const Audio input = noise(3 * kSecond);
    const auto bounce = [&](bool playsBefore)
    {
        session.plugin.prepare(48000.0, 4096, false);
        session.plugin.transport.sample = 5000;
        if (playsBefore)
            session.plugin.play(noise(kSecond, 5), {512});
        session.plugin.prepare(48000.0, 4096, true);
        session.plugin.transport.sample = 0;
        return session.plugin.play(input, kVarying);
    };
    const Audio first = bounce(false);
    CHECK(firstDifference(bounce(true), first, 0) == -1);
}

TEST_CASE("what the engine has not sent of a loop is the input, also while there is no engine", "[engine]")
{
    LoopSession session(false);
    session.engine.holdsFrom = 25;
    session.loop.capture(noise(kClip));
    session.loop.clip.missingFrom = kSecond;
    REQUIRE(session.loop.becomesWhole());
    int blocks = 0;
    const auto kill = [&]
    {
        if (++blocks == 30)
            session.engine.stop();
    };
    session.plugin.transport.sample = 0;
    const Audio input = noise(kClip, 5);
    CHECK(session.loop.firstOther(session.plugin.play(input, {480}, kill), input) == -1);
    session.plugin.transport.sample = 0;
    CHECK(session.loop.firstOther(session.plugin.play(input, kVarying), input) == -1);

    session.engine.holdsFrom = FakeLoop::kEverything;
    session.engine.start();
    session.loop.clip.missingFrom = Clip::kNothing;
    CHECK(session.loop.becomesWhole());
}

TEST_CASE("an engine that is restarted during a loop's bounce changes none of its bits", "[engine]")
{
    LoopSession session(true);
    session.engine.holdsFrom = 25;
    session.loop.capture(noise(kClip));
    std::thread restart(
        [&]
        {
            while (session.engine.commits == 0)
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
            session.engine.stop();
            session.engine.holdsFrom = FakeLoop::kEverything;
            session.engine.start();
        });
    CHECK(session.loop.isWhole());
    restart.join();
    CHECK(session.engine.commits == 2);
}

TEST_CASE("eight instances, loops and streams mixed, play with one engine", "[engine]")
{
    for (const bool withStreams : {false, true})
    {
        FakeEngine engine(freeEndpoint());
        std::vector<std::unique_ptr<HostedPlugin>> plugins;
        std::vector<std::unique_ptr<LoopPlugin>> loops; // null: a stream
        for (int k = 0; k < 8; ++k)
        {
            const bool isStream = withStreams && k % 4 >= 2;
            useEngine(engine.address(), "1", isStream ? Mode::stream : Mode::loop);
            plugins.push_back(std::make_unique<HostedPlugin>(48000.0, 512, k % 2 == 0));
            loops.push_back(isStream ? nullptr : std::make_unique<LoopPlugin>(*plugins.back()));
        }
        REQUIRE(hasBeenFound(engine, 8));
        for (std::size_t k = 0; k < plugins.size(); ++k)
            if (loops[k] != nullptr)
            {
                loops[k]->capture(noise(kClip, static_cast<unsigned>(k + 1)), static_cast<juce::int64>(1000 * k));
                CHECK(loops[k]->becomesWhole());
                plugins[k]->transport.sample = 0;
            }
        const Audio input = noise(3 * kSecond);
        std::vector<Audio> outputs(plugins.size());
        std::vector<std::thread> threads;
        for (std::size_t k = 0; k < plugins.size(); ++k)
            threads.emplace_back(
                [&, k]
                {
                    Clock clock(plugins[k]->transport);
                    outputs[k] = plugins[k]->play(input, {512},
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
            CAPTURE(withStreams, k);
            CHECK((loops[k] != nullptr ? loops[k]->firstOther(outputs[k], input)
                                       : firstDifference(outputs[k], input, 48000, -1.0f)) == -1);
        }
    }
}
