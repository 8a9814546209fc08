// SPDX-License-Identifier: AGPL-3.0-or-later
// Everything that a host does to the audio thread, inside a function that must not block. RealtimeSanitizer
// (scripts/sanitize realtime) ends the program at the first allocation, lock or system call there; with other compilers
// these cases see that the sound is finite.
#include <cmath>

#include "StreamRig.h"

using namespace stream_rig;

namespace
{
struct Playing : Rig
{
    std::mt19937 random{9};
    bool isFinite = true;

    void block(int count)
    {
        Signal left = noise(static_cast<std::size_t>(count) + 1, static_cast<unsigned>(random())),
               right = left; // never without an address
        for (std::size_t i = 0; i < kLaneCount; ++i)
        {
            std::uniform_real_distribution<float> values(kLanes[i].min, kLanes[i].max);
            controls.lanes[i] = values(random);
        }
        processInRealTime(stream, {left.data(), right.data()}, count, transport, controls);
        left.pop_back();
        for (const float value : left)
            isFinite = isFinite && std::isfinite(value);
        transport.sample += transport.playing ? count : 0;
    }
    void blocks(int times, std::initializer_list<int> sizes)
    {
        for (int round = 0; round < times; ++round)
            for (const int size : sizes)
            {
                block(size);
                serve();
            }
    }
};
} // namespace

TEST_CASE("playing in real time: windows in time, blocks of every size", "[realtime]")
{
    Playing host;
    host.blocks(200, {64, 0, 1, 333, 480, 17});
    CHECK(host.isFinite);
    CHECK(host.frames.size() > 100);
}

TEST_CASE("playing in real time: locates, loops, stops, restarts and negative positions", "[realtime]")
{
    Playing host;
    for (const std::int64_t place : {0LL, 100000LL, -5000LL, 77LL, 1LL << 40, 3LL})
        for (const bool playing : {true, false, true})
        {
            host.transport.sample = place;
            host.transport.playing = playing;
            host.blocks(20, {64, 333});
            host.stream.requestReset();
        }
    host.transport = {};
    host.blocks(20, {64, 333}); // no position at all
    CHECK(host.isFinite);
}

TEST_CASE("playing in real time: nobody answers, nobody empties the queues, and late windows by both policies",
          "[realtime]")
{
    for (const LatePolicy policy : {LatePolicy::dry, LatePolicy::silence})
    {
        Playing host;
        host.controls.latePolicy = policy;
        host.answers = false;
        host.blocks(50, {480});
        for (int k = 0; k < 200; ++k)
            host.block(480); // the queue to the link runs full
        host.serve();
        host.answers = true;
        host.blocks(50, {480});
        CHECK(host.isFinite);
        CHECK(host.telemetry.feedOverflows > 0);
        CHECK(host.telemetry.lateFrames > 0);
    }
}

TEST_CASE("playing in real time: bypass, and input that is not finite", "[realtime]")
{
    Playing host;
    for (int k = 0; k < 100; ++k)
    {
        host.controls.bypassed = k / 10 % 2 == 0;
        Signal left(64, k % 3 == 0 ? NAN : INFINITY), right = left;
        processInRealTime(host.stream, {left.data(), right.data()}, 64, host.transport, host.controls);
        host.transport.sample += 64;
        host.serve();
        for (const float value : left)
            REQUIRE(std::isfinite(value));
    }
    CHECK(host.telemetry.nonFiniteSamples > 0);
}
