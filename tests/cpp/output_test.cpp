// SPDX-License-Identifier: AGPL-3.0-or-later
// What happens on the way out: match, limiter, meters, the tail between players, notes.
#include <cmath>

#include "StreamRig.h"
#include "core/Limiter.h"
#include "core/LoudnessMatch.h"
#include "core/Meters.h"
#include "core/OutputStage.h"
#include "core/OutputTail.h"

using namespace demon;
using stream_rig::defaultControls;
using stream_rig::noise;
using stream_rig::Signal;

namespace
{
constexpr int kRate = 48000;

Signal scaled(Signal signal, float factor)
{
    for (float& value : signal)
        value *= factor;
    return signal;
}

/// Both channels through `process(audio, count)` in chunks; returns the left one.
template <class Process> Signal inChunks(Signal left, std::size_t chunk, Process&& process)
{
    Signal right = left;
    for (std::size_t at = 0; at < left.size(); at += chunk)
        process(std::array<float*, 2>{left.data() + at, right.data() + at}, std::min(chunk, left.size() - at));
    return left;
}

float largestOf(const Signal& signal)
{
    float largest = 0.0f;
    for (const float value : signal)
        largest = std::max(largest, std::abs(value));
    return largest;
}

/// A stage without latency whose windows are `wet`.
Signal staged(const Signal& dry, const Signal& wet, const Controls& controls, bool offline, std::size_t chunk,
              Telemetry& telemetry)
{
    OutputStage stage(0, kRate, telemetry);
    std::size_t at = 0;
    return inChunks(dry, chunk,
                    [&](std::array<float*, 2> audio, std::size_t count)
                    {
                        stage.delay(audio, count, OutputStage::Level::of(controls));
                        WetSplice::Source source;
                        source.run = 1;
                        source.window = {wet.data() + at, wet.data() + at};
                        source.replacement = {audio[0], audio[1]};
                        stage.mix(audio, count, source, OutputStage::Finish::of(controls, offline));
                        at += count;
                    });
}
} // namespace

TEST_CASE("below its ceiling the limiter changes no bit")
{
    Limiter limiter(kRate);
    const Signal input = scaled(noise(20000, 1), 0.98f);
    CHECK((inChunks(input, 100, [&](auto audio, std::size_t count) { limiter.process(audio, count); }) == input));
}

TEST_CASE("nothing leaves the limiter above -0.1 dBFS, for any chunks, and soon after it is transparent again")
{
    Signal input = scaled(noise(60000, 2), 0.5f);
    for (std::size_t i = 10000; i < 12000; ++i)
        input[i] *= 16.0f;
    Signal reference;
    for (const std::size_t chunk : {1, 64, 333, 60000})
    {
        Limiter limiter(kRate);
        const Signal output =
            inChunks(input, chunk, [&](auto audio, std::size_t count) { limiter.process(audio, count); });
        CHECK(largestOf(output) <= Limiter::kCeiling);
        if (reference.empty())
            reference = output;
        CHECK((output == reference));
    }
    CHECK(20.0f * std::log10(Limiter::kCeiling) == Approx(-0.1f));
    CHECK(std::equal(input.begin(), input.begin() + 10000, reference.begin()));
    CHECK(std::abs(reference[12010]) < std::abs(input[12010])); // it recovers gradually
    CHECK(std::equal(input.begin() + 12000 + kRate * 7 / 10, input.end(), reference.begin() + 12000 + kRate * 7 / 10));
}

TEST_CASE("both channels are limited alike")
{
    Limiter limiter(kRate);
    Signal left(10, 2.0f), right(10, 0.5f);
    limiter.process({left.data(), right.data()}, 10);
    CHECK(left[5] == Approx(Limiter::kCeiling));
    CHECK(right[5] == Approx(Limiter::kCeiling / 4.0f));
}

TEST_CASE("the suggested match makes both signals equally loud, whatever their bass, within 12 dB")
{
    const Signal dry = scaled(noise(5 * kRate, 3), 0.5f);
    const auto suggestion = [&](Signal wet)
    {
        LoudnessMatch match(kRate);
        match.measure({dry.data(), dry.data()}, {wet.data(), wet.data()}, wet.size());
        return match.suggestedDb();
    };
    CHECK(suggestion(dry) == Approx(0.0f).margin(0.01f));
    CHECK(suggestion(scaled(noise(5 * kRate, 4), 0.25f)) == Approx(6.02f).margin(0.1f));
    CHECK(suggestion(scaled(dry, 2.0f)) == Approx(-6.02f).margin(0.01f));
    CHECK(suggestion(scaled(dry, 0.05f)) == LoudnessMatch::kMostDb);
    Signal bass = dry; // 20 Hz, as strong as the noise
    for (std::size_t i = 0; i < bass.size(); ++i)
        bass[i] += 0.4f * std::sin(6.2831853f * 20.0f * static_cast<float>(i) / kRate);
    CHECK(suggestion(bass) == Approx(0.0f).margin(0.5f));
    CHECK(suggestion(Signal(kRate, 0.0f)) == 0.0f + suggestion(Signal(kRate, 0.0f))); // finite
    LoudnessMatch untouched(kRate);
    CHECK(untouched.suggestedDb() == 0.0f);
}

TEST_CASE("the match gain acts on the windows, exactly as given, and not at 0 dB")
{
    Telemetry telemetry;
    const Signal dry = noise(4000, 5), wet = scaled(noise(4000, 6), 0.1f);
    Controls controls = defaultControls();
    CHECK((staged(dry, wet, controls, false, 64, telemetry) == wet));
    controls.matchGainDb = 6.0f;
    const float gain = std::pow(10.0f, 0.3f);
    for (const bool offline : {false, true})
        CHECK((staged(dry, wet, controls, offline, 100, telemetry) == scaled(wet, gain)));
    controls.matchGainDb = 100.0f;
    CHECK((staged(dry, wet, controls, true, 100, telemetry) == scaled(wet, std::pow(10.0f, 0.6f))));
    CHECK(telemetry.suggestedMatchDb > 10.0f);
    controls.bypassed = true;
    CHECK((staged(dry, wet, controls, true, 100, telemetry) == dry));
}

TEST_CASE("the limiter works in real time on request, and in a bounce on another; never in bypass")
{
    Telemetry telemetry;
    const Signal wet = scaled(noise(4000, 7), 3.0f);
    Controls controls = defaultControls();
    const auto largest = [&](bool offline) { return largestOf(staged(wet, wet, controls, offline, 64, telemetry)); };
    CHECK(largest(false) > 2.0f);
    controls.limit = true;
    CHECK(largest(false) <= Limiter::kCeiling);
    CHECK(largest(true) > 2.0f);
    controls.limitOffline = true;
    CHECK(largest(true) <= Limiter::kCeiling);
    controls.bypassed = true;
    CHECK(largest(false) > 2.0f);
}

TEST_CASE("meters tell the peak since the last look, and the level")
{
    Meter meter;
    Signal left(kRate * 3), right(kRate * 3, 0.25f);
    for (std::size_t i = 0; i < left.size(); ++i)
        left[i] = 0.5f * std::sin(0.1f * static_cast<float>(i));
    for (std::size_t at = 0; at < left.size(); at += 480)
        meter.measure({left.data() + at, right.data() + at}, 480, kRate);
    CHECK(meter.takePeak(0) == Approx(0.5f).margin(1e-3));
    CHECK(meter.takePeak(0) == 0.0f);
    CHECK(meter.takePeak(1) == 0.25f);
    CHECK(meter.rms(0) == Approx(0.5f / std::sqrt(2.0f)).margin(2e-3));
    CHECK(meter.rms(1) == Approx(0.25f).margin(1e-3));
    meter.measure({left.data(), right.data()}, 0, kRate);
    CHECK(meter.rms(1) == Approx(0.25f).margin(1e-3));
}

TEST_CASE("a stream feeds the meters with what they are named after")
{
    stream_rig::Rig rig;
    rig.playAll(Signal(6400, 0.5f), 320); // windows are the negative
    rig.controls.lanes[lane::output_gain] = -6.0f;
    CHECK(rig.telemetry.meters.input.takePeak(0) == 0.5f);
    CHECK(rig.telemetry.meters.input.takePeak(1) == 0.25f);
    CHECK(rig.telemetry.meters.dry.takePeak(0) == 0.5f);
    CHECK(rig.telemetry.meters.wet.takePeak(1) == 0.25f);
    CHECK(rig.telemetry.meters.output.takePeak(0) == 0.5f);
    rig.playAll(Signal(6400, 0.5f), 320);
    CHECK(rig.telemetry.meters.output.rms(0) < 0.5f);
}

TEST_CASE("from one player to another there is no jump, for any chunks, and else no bit changes")
{
    Signal reference;
    for (const std::size_t chunk : {1, 50, 128, 500})
    {
        OutputTail tail;
        Signal out;
        for (const float value : {0.5f, -0.25f})
        {
            bool isOther = value < 0.0f;
            const Signal part = inChunks(Signal(500, value), chunk,
                                         [&](auto audio, std::size_t count)
                                         { tail.process(audio, count, std::exchange(isOther, false)); });
            out.insert(out.end(), part.begin(), part.end());
        }
        if (reference.empty())
            reference = out;
        CHECK((out == reference));
    }
    for (std::size_t i = 0; i < 1000; ++i)
    {
        if (i < 500)
            REQUIRE(reference[i] == 0.5f);
        else if (i >= 628)
            REQUIRE(reference[i] == -0.25f);
        else
            REQUIRE(std::abs(reference[i] - reference[i - 1]) < 0.76f / 128);
    }
}

TEST_CASE("what another player plays after its first silence fades in, for any chunks")
{
    Signal reference;
    for (const std::size_t chunk : {1, 50, 128, 500})
    {
        OutputTail tail;
        Signal signal(1000, 0.5f); // one player, then another with 300 samples of silence
        std::fill_n(signal.begin() + 200, 300, 0.0f);
        std::size_t done = 0;
        const Signal out =
            inChunks(signal, chunk,
                     [&](auto audio, std::size_t count)
                     {
                         const bool isOther = done <= 200 && done + count > 200;
                         const std::size_t before = isOther ? 200 - done : 0;
                         if (before > 0)
                             tail.process(audio, before, false);
                         tail.process({audio[0] + before, audio[1] + before}, count - before, isOther, 300);
                         done += count;
                     });
        if (reference.empty())
            reference = out;
        CHECK((out == reference));
    }
    for (std::size_t i = 1; i < 1000; ++i)
    {
        CHECK(std::abs(reference[i] - reference[i - 1]) < 0.51f / OutputTail::kFadeSamples);
        if (i < 200 || i >= 500 + OutputTail::kFadeSamples)
            CHECK(reference[i] == 0.5f);
        else if (i >= 200 + OutputTail::kFadeSamples && i <= 500)
            CHECK(reference[i] == 0.0f);
    }
}

TEST_CASE("the tail forgets at a reset, starts without one, and remembers a change that came with an empty block")
{
    OutputTail tail;
    Signal signal(10, 1.0f), other(10, 0.0f);
    const auto pass = [&](Signal& audio, bool isOther) {
        tail.process({audio.data(), audio.data()}, audio.size(), isOther);
    };
    pass(signal, true);
    CHECK((signal == Signal(10, 1.0f)));
    tail.reset();
    pass(other, true);
    CHECK((other == Signal(10, 0.0f)));
    Signal empty, last(10, 0.5f);
    Signal left = last, right = last;
    tail.process({empty.data(), empty.data()}, 0, true);
    tail.process({left.data(), right.data()}, 10, false);
    CHECK(left[0] == 0.0f);
}

namespace
{
std::vector<FrameNote> notesOf(Telemetry& telemetry)
{
    std::vector<FrameNote> notes;
    while (telemetry.notes.tryPop([&](const FrameNote& note) { notes.push_back(note); }))
    {
    }
    return notes;
}
} // namespace

TEST_CASE("a stream's notes join a frame's input and lanes with its output a latency later, for any block size")
{
    using namespace stream_rig;
    for (const std::size_t block : {1, 64, 320, 333, 1280})
    {
        INFO("block " << block);
        Rig rig;
        rig.transport.sample = 100; // inside frame 0
        Signal input;
        for (int frame = 0; frame < 20; ++frame)
            input.insert(input.end(), frame == 0 ? kFrame - 100 : kFrame, 0.04f * static_cast<float>(frame));
        rig.answers = true;
        rig.playAll(input, block);
        const std::vector<FrameNote> notes = notesOf(rig.telemetry);
        REQUIRE(notes.size() >= 14);
        for (std::size_t i = 0; i < notes.size(); ++i)
        {
            const float value = 0.04f * static_cast<float>(i);
            CHECK(notes[i].epoch == 1);
            CHECK(notes[i].frame == static_cast<std::int64_t>(i));
            CHECK(notes[i].input.highest == value);
            CHECK(notes[i].output.lowest == -value);
            CHECK(notes[i].status == FrameStatus::ready);
            CHECK(notes[i].take == 0);
        }
    }
}

TEST_CASE("a stream's notes carry the lanes that the host gave for the frame, and say what was late")
{
    using namespace stream_rig;
    Rig rig;
    for (int frame = 0; frame < 20; ++frame)
    {
        rig.controls.lanes[lane::denoise] = 0.04f * static_cast<float>(frame);
        rig.answers = frame != 6;
        rig.play(Signal(kFrame, 0.1f), 0, kFrame);
        if (frame == 12) // a locate: frames of two epochs are in flight
            rig.transport.sample += 5 * kFrame + 10;
    }
    const std::vector<FrameNote> notes = notesOf(rig.telemetry);
    REQUIRE(notes.size() >= 14);
    for (std::size_t i = 0; i < notes.size(); ++i)
    {
        const auto index = static_cast<std::int64_t>(i);
        INFO("note " << i);
        CHECK(notes[i].epoch == (i <= 12 ? 1 : 2));
        CHECK(notes[i].frame == (i <= 12 ? index : index + 5));
        if (i <= 12)
            CHECK(notes[i].lanes[lane::denoise] == 0.04f * static_cast<float>(i));
        CHECK(notes[i].status == (i == 6 ? FrameStatus::late : FrameStatus::ready));
    }
}

TEST_CASE("notes that nobody reads are dropped, and those after them come")
{
    using namespace stream_rig;
    Rig rig;
    for (int frame = 0; frame < 400; ++frame)
        rig.play(Signal(kFrame, 0.1f), 0, kFrame);
    CHECK(notesOf(rig.telemetry).size() == Telemetry::kMostNotes);
    for (int frame = 0; frame < 10; ++frame)
        rig.play(Signal(kFrame, 0.1f), 0, kFrame);
    CHECK(notesOf(rig.telemetry).size() == 10);
}
