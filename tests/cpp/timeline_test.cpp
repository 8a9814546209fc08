// SPDX-License-Identifier: AGPL-3.0-or-later
#include "catch.h"
#include "core/SegmentMap.h"
#include "core/Timeline.h"

using namespace demon;

namespace
{
constexpr double kRate = 48000.0;

Transport playingAt(std::int64_t sample, bool offline = false)
{
    Transport transport;
    transport.offline = offline;
    transport.hasPosition = transport.playing = true;
    transport.sample = sample;
    return transport;
}

Transport stopped(bool offline = false)
{
    Transport transport = playingAt(0, offline);
    transport.playing = false;
    return transport;
}
} // namespace

TEST_CASE("a host that plays on is continued, a jump of one sample is a locate")
{
    Timeline timeline(kRate);
    CHECK_FALSE(timeline.advance(playingAt(1000), 512).continues);
    CHECK(timeline.advance(playingAt(1512), 64).continues);
    const Timeline::Place jumped = timeline.advance(playingAt(1577), 64);
    CHECK(jumped.onTimeline);
    CHECK_FALSE(jumped.continues);
    CHECK(jumped.sample == 1577);
    CHECK(timeline.advance(playingAt(1641), 64).continues);
}

TEST_CASE("in real time a stopped host is nowhere, and playing again begins anew even at the same place")
{
    Timeline timeline(kRate);
    timeline.advance(playingAt(0), 100);
    CHECK_FALSE(timeline.advance(stopped(), 100).onTimeline);
    CHECK_FALSE(timeline.advance(playingAt(100), 100).continues);
}

TEST_CASE("offline and never playing is counted from the last reset")
{
    Timeline timeline(kRate);
    CHECK(timeline.advance(stopped(true), 512).sample == 0);
    const Timeline::Place second = timeline.advance(stopped(true), 512);
    CHECK(second.continues);
    CHECK(second.sample == 512);
    timeline.reset();
    const Timeline::Place afterReset = timeline.advance(stopped(true), 512);
    CHECK_FALSE(afterReset.continues);
    CHECK(afterReset.sample == 0);
}

TEST_CASE("offline, once the host has played, stopped is nowhere")
{
    Timeline timeline(kRate);
    timeline.advance(playingAt(0, true), 512);
    CHECK_FALSE(timeline.advance(stopped(true), 512).onTimeline);
}

TEST_CASE("without any position samples are counted, in real time too")
{
    Timeline timeline(kRate);
    CHECK(timeline.advance(Transport(), 10).onTimeline);
    CHECK(timeline.advance(Transport(), 10).sample == 10);
}

TEST_CASE("a change between live and offline begins anew")
{
    Timeline timeline(kRate);
    timeline.advance(playingAt(0, false), 512);
    CHECK_FALSE(timeline.advance(playingAt(512, true), 512).continues);
}

TEST_CASE("pre-roll is counted back from ppq, tolerates ticks, and the roll begins exactly at zero")
{
    Timeline timeline(kRate);
    const auto preRoll = [](std::int64_t sample)
    {
        Transport transport = playingAt(0);
        transport.hasMusic = true;
        transport.bpm = 120.0;
        transport.ppq = std::floor(static_cast<double>(sample) / 24000.0 * 1920.0) / 1920.0; // rounded to ticks
        return transport;
    };
    const Timeline::Place first = timeline.advance(preRoll(-4096), 1024);
    CHECK(first.onTimeline);
    CHECK(std::abs(first.sample + 4096) <= 13); // one tick
    for (std::int64_t sample = -3072; sample < 0; sample += 1024)
        CHECK(timeline.advance(preRoll(sample), 1024).continues);
    const Timeline::Place roll = timeline.advance(playingAt(0), 1024);
    CHECK(roll.sample == 0);
    CHECK(timeline.advance(playingAt(1024), 1024).continues);
}

TEST_CASE("a negative ppq with an advancing sample position is a song that starts before its first bar")
{
    Timeline timeline(kRate);
    Transport transport = playingAt(48000);
    transport.hasMusic = true;
    transport.ppq = -2.0;
    CHECK(timeline.advance(transport, 512).sample == 48000);
    transport.sample += 512;
    transport.ppq += 512.0 / 24000.0;
    CHECK(timeline.advance(transport, 512).sample == 48512);
}

TEST_CASE("segments are found by counter, and a full map only refuses new epochs")
{
    SegmentMap map;
    map.add({0, 1, 500});
    map.add({100, 0, 0});
    map.add({150, 2, -20});
    CHECK(map.at(0).epoch == 1);
    CHECK(map.at(99).epoch == 1);
    CHECK(map.nextCounter() == 100);
    CHECK(map.at(100).epoch == 0);
    CHECK(map.at(1000).position == -20);
    map.clear();
    for (std::int64_t i = 0; !map.isFull(); ++i)
        map.add({i, static_cast<std::int32_t>(i + 1), i});
    map.add({100000, 0, 0});
    CHECK(map.at(0).epoch == 1);
    CHECK(map.at(100000).epoch == 0);
}
