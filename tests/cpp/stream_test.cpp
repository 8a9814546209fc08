// SPDX-License-Identifier: AGPL-3.0-or-later
// The real-time core from end to end.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "StreamRig.h"
#include "WaitCount.h"

using namespace demon;
using namespace stream_rig;

TEST_CASE("any block size gives the same frames")
{
    const Signal input = noise(4000, 1);
    std::vector<CollectedFrame> reference;
    for (const std::size_t block : {1, 2, 64, 319, 320, 321, 512, 1920, 4000})
    {
        Rig rig;
        rig.answers = false;
        rig.transport.sample = -1000; // starts inside frame -4
        rig.playAll(input, block);
        if (reference.empty())
            reference = rig.frames;
        INFO("block " << block);
        CHECK((rig.frames == reference));
    }
    REQUIRE(reference.size() == 13);
    CHECK(reference.front().frame == -4);
    CHECK(std::count(reference[0].audio.begin(), reference[0].audio.begin() + 280, 0.0f) == 280); // before the start
    CHECK(reference[0].audio[280] == input[0]);
    CHECK(reference[0].audio[320 + 280] == 0.5f * input[0]);
    CHECK(reference[1].audio[0] == input[40]);
}

TEST_CASE("a frame's lanes are those of the block that contains its first sample")
{
    Rig rig;
    const Signal input = noise(2000, 1);
    const auto play = [&](float denoise, std::size_t count)
    {
        rig.controls.lanes[lane::denoise] = denoise;
        rig.play(input, 0, count);
    };
    rig.transport.sample = 100;
    play(0.1f, 100); // frame 0 begins before the epoch: the first block's value
    play(0.2f, 120); // up to 320
    play(0.3f, 320); // frame 1
    play(0.4f, 10);
    play(0.5f, 310);
    play(0.6f, 640); // frames 3 and 4
    REQUIRE(rig.frames.size() == 5);
    const std::vector<float> expected{0.1f, 0.3f, 0.4f, 0.6f, 0.6f};
    for (std::size_t i = 0; i < expected.size(); ++i)
        CHECK(rig.frames[i].denoise == expected[i]);
}

TEST_CASE("the windows come out bit for bit, a latency later, for any block size")
{
    const Signal input = noise(12000, 2);
    for (const std::size_t block : kBlocks)
    {
        INFO("block " << block);
        Rig rig;
        rig.transport.sample = 12345;
        CHECK((rig.playAll(input, block) == delayed(input, -1.0f)));
        CHECK(rig.telemetry.lateFrames == 0);
    }
}

TEST_CASE("mix 0, bypass, no engine and a stopped host give the delayed input bit for bit")
{
    const Signal input = noise(9000, 3);
    for (const std::size_t block : kBlocks)
    {
        INFO("block " << block);
        Rig dry, bypassed, alone, stopped;
        dry.controls.lanes[lane::mix] = 0.0f;
        bypassed.controls.bypassed = true;
        bypassed.controls.lanes[lane::output_gain] = 12.0f;
        alone.answers = false;
        stopped.transport.playing = false;
        for (Rig* rig : {&dry, &bypassed, &alone, &stopped})
            CHECK((rig->playAll(input, block) == delayed(input)));
        CHECK(alone.telemetry.lateFrames > 0);
        CHECK(stopped.frames.empty());
    }
}

TEST_CASE("mix and gain act on the output where they were drawn, for any block size")
{
    const Signal input = noise(9600, 4);
    Signal reference;
    for (const std::size_t block : {64, 320, 960})
    {
        Rig rig;
        Signal out;
        for (std::size_t at = 0; at < input.size(); at += block)
        {
            rig.controls.lanes[lane::mix] = at < 3840 ? 1.0f : 0.0f;
            rig.controls.lanes[lane::output_gain] = at < 5760 ? 0.0f : -6.0f;
            const Signal part = rig.play(input, at, block);
            out.insert(out.end(), part.begin(), part.end());
        }
        if (reference.empty())
            reference = out;
        INFO("block " << block);
        CHECK((out == reference));
    }
    constexpr std::size_t ramp = kRate / 200;
    CHECK(reference[kLatency + 3839] == -input[3839]);
    CHECK(reference[kLatency + 3840 + ramp] == input[3840 + ramp]);
    CHECK(reference[kLatency + 5759] == input[5759]);
    CHECK(reference[kLatency + 5760 + ramp] == Approx(input[5760 + ramp] * std::pow(10.0f, -0.3f)));
}

TEST_CASE("a locate ends the epoch with a padded frame, and what was before it still sounds")
{
    Rig rig;
    const Signal input = noise(8000, 5);
    Signal out = rig.play(input, 0, 1000);
    rig.transport.sample = 64000;
    for (std::size_t at = 1000; at < input.size(); at += 1000)
    {
        const Signal part = rig.play(input, at, 1000);
        out.insert(out.end(), part.begin(), part.end());
    }
    CHECK((out == delayed(input, -1.0f)));
    REQUIRE(rig.others.size() == 3);
    CHECK(rig.others[0].kind == FeedItem::Kind::begin);
    CHECK(rig.others[1].kind == FeedItem::Kind::end);
    CHECK(rig.others[1].frame == 4);
    CHECK(rig.others[2].kind == FeedItem::Kind::begin);
    CHECK(rig.others[2].epoch == 2);
    CHECK(rig.others[2].start == 64000);
    CHECK(rig.frames[3].audio[39] == input[999]);
    CHECK(rig.frames[3].audio[40] == 0.0f);
}

TEST_CASE("a reset drops everything and starts over")
{
    Rig rig;
    const Signal input = noise(6400, 6);
    rig.playAll(input, 640);
    rig.stream.requestReset();
    rig.transport.sample = 0;
    CHECK((rig.playAll(input, 640) == delayed(input, -1.0f)));
    REQUIRE(rig.others.size() == 3);
    CHECK(rig.others[1].kind == FeedItem::Kind::drop);
    CHECK(rig.others[1].epoch == 1);
    CHECK(rig.others[2].kind == FeedItem::Kind::begin);
}

TEST_CASE("after a reset the first frames are wet, however many stale windows were on their way")
{
    Rig rig;
    const Signal input = noise(6400, 6);
    const auto fillWithStale = [&]
    {
        const auto fill = [](WetFrame& wet)
        {
            wet.epoch = 1;
            wet.frame = 1000;
        };
        while (rig.stream.wetRing.tryPush(fill))
        {
        }
    };
    rig.playAll(input, 640);
    fillWithStale();
    rig.stream.requestReset();
    rig.transport.sample = 0;
    rig.play(input, 0, 320); // the rig demands room for every window
    CHECK(rig.stream.wetRing.size() == 1);

    rig.stream.requestReset(); // the drop is on its way, and the link thread still sends
    Signal l(input.begin(), input.begin() + 320), r = l;
    rig.transport.sample = 0;
    processInRealTime(rig.stream, {l.data(), r.data()}, 320, rig.transport, rig.controls);
    fillWithStale();
    rig.answers = false;
    rig.serve();
    rig.transport.sample += 320;
    rig.play(input, 320, 320);
    CHECK(rig.stream.wetRing.size() == 0);
}

TEST_CASE("in real time a late window is replaced, counted, and playing goes on with the next")
{
    Rig rig;
    const Signal input(6400, 0.5f);
    Signal out = rig.play(input, 0, 640);
    rig.answers = false;
    const Signal part = rig.play(input, 640, 320); // frame 2 has no window
    rig.answers = true;
    out.insert(out.end(), part.begin(), part.end());
    for (std::size_t at = 960; at < input.size(); at += 320)
    {
        const Signal more = rig.play(input, at, 320);
        out.insert(out.end(), more.begin(), more.end());
    }
    CHECK(rig.telemetry.lateFrames == 1);
    CHECK(out[kLatency + 639] == -0.5f);
    CHECK(out[kLatency + 640 + 200] == 0.5f);
    CHECK(out[kLatency + 960 + 200] == -0.5f);
    for (std::size_t i = kLatency + 1; i < out.size(); ++i)
        REQUIRE(std::abs(out[i] - out[i - 1]) < 0.02f);
}

TEST_CASE("late windows are silent on request")
{
    Rig rig;
    rig.answers = false;
    rig.controls.latePolicy = LatePolicy::silence;
    for (const float value : rig.playAll(noise(6400, 7), 640))
        REQUIRE(value == 0.0f);
}

TEST_CASE("when the link thread stalls, nothing blocks and the next epoch begins once there is room")
{
    Rig rig;
    const Signal input = noise(kFrame, 8);
    for (int block = 0; block < 100; ++block)
    {
        Signal l = input, r = input;
        processInRealTime(rig.stream, {l.data(), r.data()}, kFrame, rig.transport, rig.controls);
        rig.transport.sample += kFrame;
    }
    CHECK(rig.telemetry.feedOverflows == 1);
    rig.answers = false;
    rig.serve();
    rig.play(input, 0, kFrame);
    CHECK(rig.others.back().kind == FeedItem::Kind::begin);
    CHECK(rig.others.back().epoch == 2);
    CHECK(rig.others.back().start == 100 * kFrame);
}

TEST_CASE("invalid samples become zero and are counted")
{
    Rig rig;
    Signal input(3200, 0.25f);
    input[10] = std::numeric_limits<float>::quiet_NaN();
    input[20] = std::numeric_limits<float>::infinity();
    const Signal out = rig.playAll(input, 320);
    CHECK(rig.telemetry.nonFiniteSamples == 4);
    CHECK(out[kLatency + 10] == 0.0f);
    CHECK(out[kLatency + 11] == -0.25f);
}

TEST_CASE("at an unsupported rate the stream only delays")
{
    Telemetry telemetry;
    EpochNumbers epochs;
    Stream stream(44110, 2, epochs, telemetry);
    Transport transport;
    Signal l(4000, 1.0f), r(4000, 1.0f);
    processInRealTime(stream, {l.data(), r.data()}, 4000, transport, defaultControls());
    CHECK(stream.feedRing.size() == 0);
    CHECK(l[static_cast<std::size_t>(stream.latencySamples) - 1] == 0.0f);
    CHECK(l[static_cast<std::size_t>(stream.latencySamples)] == 1.0f);
}

TEST_CASE("offline, a missing engine costs one time-out, and then the run is dry until reset")
{
    Rig rig;
    rig.answers = false;
    rig.transport.offline = true;
    const Signal input = noise(6400, 9);
    const EngineSigns noSigns;
    const std::int64_t startedAt = steadyNanoseconds();
    const WaitCount waits;
    Signal out;
    for (std::size_t at = 0; at < input.size(); at += 640)
    {
        Signal l(input.begin() + static_cast<std::ptrdiff_t>(at),
                 input.begin() + static_cast<std::ptrdiff_t>(at + 640));
        Signal r = l;
        OfflineWait waiter(noSigns, 100'000'000);
        rig.stream.process({l.data(), r.data()}, 640, rig.transport, rig.controls, waiter);
        rig.transport.sample += 640;
        rig.serve();
        out.insert(out.end(), l.begin(), l.end());
    }
    CHECK(static_cast<double>(steadyNanoseconds() - startedAt) * 1e-9 > 0.09);
    CHECK(waits.count() <= WaitCount::ofOneWait(100) + WaitCount::kUnasked);
    CHECK((out == delayed(input)));
    CHECK(rig.telemetry.timedOut);
}

namespace
{
struct Bounce
{
    double seconds = 0.0; ///< at least what it waited; a busy machine adds to it
    long waits = 0;       ///< see WaitCount
};

Bounce bounce(Rig& rig, const EngineSigns& signs, std::size_t frames)
{
    rig.transport.offline = true;
    const std::int64_t startedAt = steadyNanoseconds();
    const WaitCount waits;
    for (std::size_t i = 0; i < frames; ++i)
    {
        Signal l(kFrame, 0.5f), r(kFrame, 0.5f);
        OfflineWait waiter(signs, 100'000'000);
        rig.stream.process({l.data(), r.data()}, kFrame, rig.transport, rig.controls, waiter);
        rig.transport.sample += kFrame;
        rig.serve();
    }
    return {static_cast<double>(steadyNanoseconds() - startedAt) * 1e-9, waits.count()};
}
} // namespace

TEST_CASE("a bounce that gave up waits again in the next epoch, and once the error is acknowledged")
{
    const EngineSigns signs;
    Rig rig;
    rig.answers = false;
    CHECK(bounce(rig, signs, 10).seconds > 0.09);
    CHECK(bounce(rig, signs, 10).waits <= WaitCount::kUnasked);
    rig.telemetry.timedOut = false;
    CHECK(bounce(rig, signs, 1).seconds > 0.09);
    CHECK(rig.telemetry.timedOut);
    rig.transport.sample = 100000;
    CHECK(bounce(rig, signs, 10).seconds > 0.09);
    CHECK(bounce(rig, signs, 10).waits <= WaitCount::kUnasked);
}

TEST_CASE("a bounce does not wait for what the engine has refused")
{
    for (const std::int32_t hopeless : {EngineSigns::kEveryEpoch, 1})
    {
        EngineSigns signs;
        signs.hopelessEpoch = hopeless;
        Rig rig;
        rig.answers = false;
        CHECK(bounce(rig, signs, 10).waits <= WaitCount::kUnasked);
        CHECK(rig.telemetry.timedOut);
    }
    EngineSigns signs;
    signs.hopelessEpoch = 7; // another one
    Rig rig;
    rig.answers = false;
    CHECK(bounce(rig, signs, 10).seconds > 0.09);
}

TEST_CASE("while windows are late, a change between dry and silence is no jump")
{
    Rig rig;
    rig.answers = false;
    Signal out;
    for (int frame = 0; frame < 20; ++frame)
    {
        rig.controls.latePolicy = frame % 4 < 2 ? LatePolicy::dry : LatePolicy::silence;
        const Signal part = rig.play(Signal(kFrame, 0.5f), 0, kFrame);
        out.insert(out.end(), part.begin(), part.end());
    }
    for (std::size_t i = kLatency + 1; i < out.size(); ++i)
        REQUIRE(std::abs(out[i] - out[i - 1]) < 0.02f);
}
