// SPDX-License-Identifier: AGPL-3.0-or-later
// A frozen result, played in place of the player that made it.
#include <cmath>
#include <memory>

#include "AllocationCount.h"
#include "StreamRig.h"
#include "core/FrozenPlayer.h"

using namespace demon;
using stream_rig::defaultControls;
using stream_rig::kFrame;
using stream_rig::kRate;
using stream_rig::noise;
using stream_rig::Signal;

namespace
{
constexpr std::int64_t kFirst = 3; ///< frame of the result
constexpr std::int64_t kFrames = 10;
constexpr auto kStart = static_cast<std::size_t>(kFirst * kFrame);
constexpr auto kSamples = static_cast<std::size_t>(kFrames * kFrame);
constexpr std::size_t kFade = WetSplice::kFadeSamples;
const std::vector<std::size_t> kBlocks{1, 17, 64, 320, 333, 1280, 5000};

/// A result and the input that it was made from, on [kFirst, kFirst + kFrames). The right input is half of the left.
struct Take
{
    Signal left, right, input;
    LaneValues lanes = defaultControls().lanes;
    std::vector<std::uint64_t> hashes;

    explicit Take(Signal result, const Signal& timeline = {})
        : left(std::move(result)), right(left), input(kSamples, 0.0f)
    {
        std::transform(left.begin(), left.end(), right.begin(), [](float value) { return 0.25f * value; });
        if (!timeline.empty())
            input.assign(timeline.begin() + kStart, timeline.begin() + kStart + kSamples);
        for (std::size_t at = 0; at < kSamples; at += kFrame)
        {
            Signal other(input.begin() + static_cast<std::ptrdiff_t>(at),
                         input.begin() + static_cast<std::ptrdiff_t>(at + kFrame));
            for (float& value : other)
                value *= 0.5f;
            FrameHasher hasher;
            hasher.append(input.data() + at, other.data(), kFrame);
            const WireLaneValues wire = selection().pick(wireLanesOf(lanes));
            hashes.push_back(hasher.finish(wire.data(), selection().size()));
        }
    }

    static LaneSelection selection() { return *LaneSelection::of({"denoise", "guidance"}); }

    FrozenAudio audio() const
    {
        return {FrameGrid::forRate(kRate),
                kFirst,
                kFrames,
                {left.data(), right.data()},
                hashes.data(),
                selection(),
                nullptr};
    }
};

/// Plays host.
struct Rig
{
    Telemetry telemetry;
    Controls controls = defaultControls();
    Transport transport;
    FrozenPlayer player;
    Signal lastRight;

    Rig(int latencyFrames, FrozenAudio audio, FrozenClip clip = {})
        : player(kRate, latencyFrames, std::move(audio), telemetry, std::move(clip))
    {
        transport.hasPosition = transport.playing = true;
    }

    Signal block(Signal left)
    {
        Signal right = left;
        for (float& value : right)
            value *= 0.5f;
        processInRealTime(player, {left.data(), right.data()}, static_cast<int>(left.size()), transport, controls);
        if (transport.playing)
            transport.sample += static_cast<std::int64_t>(left.size());
        lastRight.insert(lastRight.end(), right.begin(), right.end());
        return left;
    }

    Signal play(const Signal& input, std::size_t size)
    {
        Signal out;
        lastRight.clear();
        for (std::size_t at = 0; at < input.size(); at += size)
        {
            const auto from = input.begin() + static_cast<std::ptrdiff_t>(at);
            const Signal part =
                block(Signal(from, from + static_cast<std::ptrdiff_t>(std::min(size, input.size() - at))));
            out.insert(out.end(), part.begin(), part.end());
        }
        return out;
    }

    std::vector<FrameNote> notes()
    {
        std::vector<FrameNote> all;
        while (telemetry.notes.tryPop([&](const FrameNote& note) { all.push_back(note); }))
        {
        }
        return all;
    }
};

float largestStep(const Signal& signal)
{
    float largest = 0.0f;
    for (std::size_t i = 1; i < signal.size(); ++i)
        largest = std::max(largest, std::abs(signal[i] - signal[i - 1]));
    return largest;
}
} // namespace

TEST_CASE("a frozen result plays its bits at its place a latency later, and outside of it the dry signal")
{
    const Signal input = noise(20 * kFrame, 1);
    const Take take(noise(kSamples, 2), input);
    for (const int latencyFrames : {0, 5})
        for (const bool offline : {false, true})
            for (const std::size_t size : kBlocks)
            {
                INFO("latency " << latencyFrames << ", offline " << offline << ", blocks of " << size);
                Rig rig(latencyFrames, take.audio());
                rig.transport.offline = offline;
                const Signal out = rig.play(input, size);
                const auto latency = static_cast<std::size_t>(latencyFrames * kFrame);
                for (std::size_t i = 0; i < out.size(); ++i)
                {
                    if (i < latency)
                    {
                        REQUIRE(out[i] == 0.0f);
                        continue;
                    }
                    const std::size_t at = i - latency, end = kStart + kSamples;
                    if (at >= kStart + kFade && at < end)
                    {
                        REQUIRE(out[i] == take.left[at - kStart]);
                        REQUIRE(rig.lastRight[i] == take.right[at - kStart]);
                    }
                    else if (at < kStart || at >= end + kFade)
                    {
                        REQUIRE(out[i] == input[at]);
                        REQUIRE(rig.lastRight[i] == 0.5f * input[at]);
                    }
                }
                CHECK(rig.telemetry.lateFrames == 0);
            }
}

TEST_CASE("every block size gives the same bits, also at the result's borders, and real time the same as a bounce")
{
    const Signal input = noise(20 * kFrame, 3);
    const Take take(noise(kSamples, 4), input);
    Signal reference;
    for (const bool offline : {false, true})
        for (const std::size_t size : kBlocks)
        {
            Rig rig(2, take.audio());
            rig.transport.sample = 100; // inside a frame
            rig.transport.offline = offline;
            const Signal out = rig.play(input, size);
            if (reference.empty())
                reference = out;
            CHECK((out == reference));
        }
}

TEST_CASE("a frozen result sounds as the stream that made it")
{
    const Signal input = noise(20 * kFrame, 5);
    stream_rig::Rig made;
    made.transport.sample = static_cast<std::int64_t>(kStart);
    const Signal expected = made.playAll(input, kFrame);
    Signal result(input.begin(), input.begin() + kSamples); // its engine answers with the negative
    for (float& value : result)
        value = -value;
    const Take take(result);
    Rig rig(stream_rig::kLatencyFrames, take.audio());
    rig.transport.sample = static_cast<std::int64_t>(kStart);
    const Signal out = rig.play(input, 480);
    CHECK((Signal(out.begin(), out.begin() + stream_rig::kLatency + kSamples) ==
           Signal(expected.begin(), expected.begin() + stream_rig::kLatency + kSamples)));
}

TEST_CASE("neither the borders of a frozen result nor locates click")
{
    const Take take(Signal(kSamples, -0.5f));
    const float smallEnough = 1.01f / kFade;
    for (const int latencyFrames : {0, 2})
    {
        Rig rig(latencyFrames, take.audio());
        Signal out;
        const auto playAt = [&](std::int64_t sample, std::size_t count)
        {
            rig.transport.sample = sample;
            const Signal part = rig.play(Signal(count, 0.5f), 64);
            out.insert(out.end(), part.begin(), part.end());
        };
        playAt(0, 20 * kFrame);                              // in and out
        playAt(static_cast<std::int64_t>(kStart) + 77, 700); // into it
        playAt(0, 700);                                      // out of it
        rig.transport.playing = false;
        playAt(0, 700);
        rig.transport.playing = true;
        playAt(static_cast<std::int64_t>(kStart) + 1000, 20 * kFrame);
        out.erase(out.begin(), out.begin() + latencyFrames * kFrame);
        CHECK(largestStep(out) < smallEnough);
        CHECK(*std::min_element(out.begin(), out.end()) == -0.5f);
    }

    Signal halves(kSamples, 0.25f);
    std::fill(halves.begin() + kSamples / 2, halves.end(), -0.5f);
    const Take two(halves);
    Rig rig(0, two.audio());
    rig.transport.sample = static_cast<std::int64_t>(kStart);
    Signal out = rig.play(Signal(1000, 0.0f), 64);
    rig.transport.sample = static_cast<std::int64_t>(kStart + kSamples / 2);
    const Signal after = rig.play(Signal(1000, 0.0f), 64);
    out.insert(out.end(), after.begin(), after.end());
    CHECK(out.front() == 0.25f);
    CHECK(out.back() == -0.5f);
    CHECK(largestStep(out) < 0.76f / 80); // a locate inside the result
}

TEST_CASE("a bounce that begins inside a frozen result is exact from its first sample, whatever sounded before")
{
    const Signal input = noise(4 * kFrame, 6);
    const Take take(noise(kSamples, 7));
    Rig rig(0, take.audio());
    rig.play(input, 64);
    rig.transport.offline = true;
    for (int round = 0; round < 2; ++round)
    {
        rig.transport.sample = static_cast<std::int64_t>(kStart) + 5;
        const Signal out = rig.play(input, 100);
        CHECK(std::equal(out.begin(), out.end(), take.left.begin() + 5));
    }
    rig.transport.playing = false;
    rig.play(input, 100);
    rig.transport.playing = true;
    rig.transport.sample = static_cast<std::int64_t>(kStart) + 5;
    const Signal out = rig.play(input, 100);
    CHECK(std::equal(out.begin(), out.end(), take.left.begin() + 5));
}

TEST_CASE("mix, gain, match and bypass act on a frozen result as on a live one, with its latency")
{
    const Signal input = noise(20 * kFrame, 8);
    const Take take(noise(kSamples, 9), input);
    const auto played = [&](const Controls& controls)
    {
        Rig rig(2, take.audio());
        rig.controls = controls;
        return rig.play(input, 256);
    };
    constexpr std::size_t at = kStart + 500, sounding = at + 2 * kFrame;
    Controls controls = defaultControls();
    controls.bypassed = true;
    CHECK(played(controls)[sounding] == input[at]);
    controls.bypassed = false;
    controls.lanes[lane::mix] = 0.0f;
    CHECK(played(controls)[sounding] == input[at]);
    controls.lanes[lane::mix] = 0.25f;
    CHECK(played(controls)[sounding] == Approx(input[at] + 0.25f * (take.left[at - kStart] - input[at])));
    controls.lanes[lane::mix] = 1.0f;
    controls.lanes[lane::output_gain] = -6.0f;
    CHECK(played(controls)[sounding] == Approx(std::pow(10.0f, -0.3f) * take.left[at - kStart]));
    controls.lanes[lane::output_gain] = 0.0f;
    controls.matchGainDb = 6.0f;
    CHECK(played(controls)[sounding] == Approx(std::pow(10.0f, 0.3f) * take.left[at - kStart]));
}

TEST_CASE("without a frozen result the dry signal passes with the latency, and so it does while the host stands still")
{
    const Signal input = noise(6 * kFrame, 10);
    const auto isDry = [&](const Signal& out)
    {
        return std::equal(out.begin() + 2 * kFrame, out.end(), input.begin()) &&
               std::all_of(out.begin(), out.begin() + 2 * kFrame, [](float value) { return value == 0.0f; });
    };
    Rig nothing(2, {});
    CHECK(isDry(nothing.play(input, 100)));
    CHECK_FALSE(nothing.player.lastBlock().hasWet);
    const Take take(noise(kSamples, 11));
    Rig stopped(2, take.audio());
    stopped.transport.playing = false;
    CHECK(isDry(stopped.play(input, 100)));
    CHECK(stopped.notes().empty());
}

TEST_CASE("frames whose audio or lanes are not what they were are stale, in the notes too, until they are again")
{
    const Signal input = noise(20 * kFrame, 12);
    const Take take(noise(kSamples, 13), input);
    Signal edited = input;
    edited[kStart + 2 * kFrame + 5] += 0.25f; // frame 5
    for (const int latencyFrames : {1, 4})
        for (const std::size_t size : {1, 64, 320})
        {
            INFO("latency " << latencyFrames << ", blocks of " << size);
            Rig rig(latencyFrames, take.audio());
            const auto playEdited = [&](const Signal& signal, float denoise)
            {
                rig.player.requestReset();
                rig.transport.sample = 0;
                for (std::size_t frame = 0; frame < 20; ++frame)
                {
                    rig.controls.lanes = take.lanes;
                    if (frame == 7)
                        rig.controls.lanes[lane::denoise] = denoise;
                    const auto from = signal.begin() + static_cast<std::ptrdiff_t>(frame * kFrame);
                    rig.play(Signal(from, from + kFrame), size);
                }
                return rig.notes();
            };
            const std::vector<FrameNote> notes = playEdited(edited, 0.123f);
            REQUIRE(notes.size() >= 16);
            for (const FrameNote& note : notes)
            {
                INFO("frame " << note.frame);
                const bool isStale = note.frame == 5 || note.frame == 7;
                const bool isInside = note.frame >= kFirst && note.frame < kFirst + kFrames;
                CHECK(note.status == (!isInside ? FrameStatus::dry
                                      : isStale ? FrameStatus::stale
                                                : FrameStatus::ready));
                CHECK(rig.player.stale().state(note.frame) == (!isInside ? StaleWatch::State::unknown
                                                               : isStale ? StaleWatch::State::stale
                                                                         : StaleWatch::State::same));
            }
            CHECK(rig.player.stale().staleFrames() == 2);
            for (const FrameNote& note : playEdited(input, take.lanes[lane::denoise]))
                CHECK(note.status != FrameStatus::stale);
            CHECK(rig.player.stale().staleFrames() == 0);
        }
}

TEST_CASE("a frozen loop cycles if the controls say so, and is compared with its clip and not with what is played")
{
    const Signal timeline = noise(20 * kFrame, 14);
    const Take take(noise(kSamples, 15), timeline);
    auto source = std::make_shared<ClipAudio>();
    source->rate = kRate;
    source->firstFrame = kFirst;
    source->frames = kFrames;
    source->audio = take.input;
    for (const float value : take.input)
        source->audio.push_back(0.5f * value);
    auto lanes = std::make_shared<LaneTable>(kFrames);
    lanes->begin(kFirst);
    for (std::int64_t i = 0; i < kFrames; ++i)
        lanes->append(wireLanesOf(take.lanes));

    Rig rig(0, take.audio(), {source, lanes});
    rig.controls.outside = OutsidePolicy::cycle;
    rig.transport.sample = -2 * kFrame;
    const Signal out = rig.play(Signal(30 * kFrame, 0.0f), 333);
    for (std::size_t i = 0; i < out.size(); ++i)
        REQUIRE(out[i] == take.left[(i + (kFrames - kFirst - 2) * kFrame) % kSamples]);
    CHECK(rig.player.stale().staleFrames() == 0);
    CHECK(rig.player.stale().state(kFirst) == StaleWatch::State::same);

    rig.controls.lanes[lane::denoise] = 0.123f; // the loop would follow it
    rig.transport.sample = static_cast<std::int64_t>(kStart);
    rig.notes();
    rig.play(Signal(2 * kFrame, 0.0f), 100);
    CHECK(rig.player.stale().staleFrames() == 2);
    for (const FrameNote& note : rig.notes())
        CHECK(note.status == FrameStatus::stale); // known when the frame is over
    lanes->setDrawn(0, true);
    REQUIRE(wireLaneIds()[0] == "denoise");
    rig.transport.sample = static_cast<std::int64_t>(kStart);
    rig.play(Signal(2 * kFrame, 0.0f), 100);
    CHECK(rig.player.stale().staleFrames() == 0);

    rig.controls.outside = OutsidePolicy::dry;
    rig.transport.sample = 0;
    const Signal dry = rig.play(Signal(kFrame, 0.5f), 64);
    CHECK(dry.back() == 0.5f);

    Rig without(0, take.audio()); // no clip: nothing can be said
    without.transport.sample = static_cast<std::int64_t>(kStart);
    without.play(Signal(2 * kFrame, 0.0f), 100);
    CHECK(without.player.stale().state(kFirst) == StaleWatch::State::unknown);
}

TEST_CASE("after a reset positions are counted from zero, and what was silence before is silence again")
{
    const Signal input = noise(20 * kFrame, 16);
    const Take take(noise(kSamples, 17), input);
    Rig rig(2, take.audio());
    rig.transport.hasPosition = false;
    const Signal first = rig.play(input, 100);
    rig.player.requestReset();
    CHECK((rig.play(input, 333) == first));
    CHECK(first[2 * kFrame - 1] == 0.0f);
    CHECK(first[2 * kFrame + kStart + kFade] == take.left[kFade]);
}

TEST_CASE("locates without end neither allocate nor lose the place")
{
    const Signal input = noise(20 * kFrame, 18);
    const Take take(noise(kSamples, 19));
    Rig rig(10, take.audio());
    Signal left(7), right(7);
    allocation_count::start();
    for (int i = 0; i < 2000; ++i) // more in one latency than can be remembered
    {
        rig.transport.sample = i * 31 % 5000;
        processInRealTime(rig.player, {left.data(), right.data()}, 7, rig.transport, rig.controls);
    }
    rig.player.requestReset();
    processInRealTime(rig.player, {left.data(), right.data()}, 7, rig.transport, rig.controls);
    CHECK(allocation_count::stop() == 0);
    rig.player.requestReset();
    rig.transport.sample = static_cast<std::int64_t>(kStart);
    const Signal out = rig.play(input, 640);
    CHECK(std::equal(out.begin() + 10 * kFrame, out.begin() + 20 * kFrame, take.left.begin()));
}

TEST_CASE("a frozen result that takes over while the host plays is heard at once, and after a reset no more")
{
    const Take take(noise(kSamples, 20));
    for (const std::size_t size : kBlocks)
    {
        Rig rig(5, take.audio());
        rig.player.takeOver();
        const std::int64_t from =
            static_cast<std::int64_t>(kStart) + 3 * kFrame + 7; // two frames before the result sound
        rig.transport.sample = from;
        const Signal out = rig.play(Signal(10 * kFrame, 0.0f), size);
        const std::size_t before = 2 * kFrame - 7;
        for (std::size_t i = 0; i < out.size(); ++i)
        {
            if (i < before)
                REQUIRE(out[i] == 0.0f);
            else if (i >= before + kFade)
                REQUIRE(out[i] == take.left[i - before]);
        }
        rig.player.requestReset();
        rig.transport.sample = from;
        CHECK((rig.play(Signal(5 * kFrame, 0.0f), size) == Signal(5 * kFrame, 0.0f)));
    }
}
