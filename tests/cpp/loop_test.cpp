// SPDX-License-Identifier: AGPL-3.0-or-later
// A loop in real time, from end to end.
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "AllocationCount.h"
#include "LoopRig.h"

using namespace demon;
using namespace loop_rig;

TEST_CASE("without a clip the dry signal passes at once, bit for bit, for any block size")
{
    const Signal input = noise(9000, 1);
    for (const std::size_t size : kBlocks)
    {
        Rig rig;
        CHECK((rig.play(input, size) == input));
        CHECK(rig.state() == LoopState::empty);
        CHECK(rig.mirrors.empty());
        CHECK(rig.telemetry.lateFrames + rig.telemetry.waitingFrames == 0);
    }
}

TEST_CASE("a capture is the same clip for any block size, and passes the input")
{
    const Signal input = noise(12345, 2);
    Mirror reference;
    std::vector<std::size_t> sizes = kBlocks;
    sizes.push_back(0); // random
    for (const std::size_t size : sizes)
    {
        INFO("block " << size);
        Rig rig;
        rig.locate(-1000); // inside frame -4
        rig.arm();
        Signal out;
        RandomBlocks blocks(3);
        while (out.size() < input.size())
        {
            const std::size_t left = input.size() - out.size();
            const std::size_t count = size == 0 ? blocks.next(left) : std::min(size, left);
            const auto from = input.begin() + static_cast<std::ptrdiff_t>(out.size());
            const Signal part = rig.block(Signal(from, from + static_cast<std::ptrdiff_t>(count)));
            out.insert(out.end(), part.begin(), part.end());
            REQUIRE(rig.state() == LoopState::capturing);
        }
        CHECK((out == input));
        rig.stop();
        CHECK(rig.state() == LoopState::playing);
        CHECK(rig.captureEnd() == CaptureEnd::complete);
        REQUIRE(rig.mirrors.size() == 1);
        const Mirror& mirror = rig.mirrors.at(1);
        CHECK(mirror.isEnded);
        CHECK(mirror.start == -1000);
        CHECK(rig.loop.signs.epoch == 1);
        CHECK(rig.loop.signs.firstFrame == -4);
        CHECK(rig.loop.signs.frames == 40);
        if (reference.frames.empty())
            reference = mirror;
        CHECK((mirror.frames == reference.frames));
    }
    REQUIRE(reference.frames.size() == 40); // samples -1000 .. 11345 touch the frames -4 .. 35
    CHECK(reference.frames.front().first == -4);
    CHECK(reference.frames.front().second[279] == 0.0f);
    CHECK(reference.frames.front().second[280] == input[0]);
    CHECK(reference.frames.back().second[144] == input.back());
    CHECK(reference.frames.back().second[145] == 0.0f);
}

TEST_CASE("a capture ends at a locate, at a reset, on request and when the clip is full")
{
    const auto ended = [](const auto& end, std::int64_t mostFrames)
    {
        Rig rig;
        const auto clip = rig.arm(mostFrames);
        rig.playConstant(0.5f, 30 * kFrame);
        end(rig);
        rig.playConstant(0.25f, 40 * kFrame, 500);
        CHECK(rig.state() == LoopState::playing);
        CHECK(rig.mirrors.at(1).isEnded);
        for (const auto& [frame, audio] : rig.mirrors.at(1).frames)
            CHECK(audio[0] == (frame < 30 ? 0.5f : 0.25f));
        CHECK(rig.mirrors.size() == 1);
        return std::make_pair(rig.captureEnd(), rig.mirrors.at(1).frames.size());
    };
    using Result = std::pair<CaptureEnd, std::size_t>;
    CHECK((ended([](Rig& rig) { rig.locate(0); }, 100) == Result{CaptureEnd::complete, 30}));
    CHECK((ended([](Rig& rig) { rig.transport.sample += 1; }, 100) == Result{CaptureEnd::complete, 30}));
    CHECK((ended([](Rig& rig) { rig.loop.requestReset(); }, 100) == Result{CaptureEnd::complete, 30}));
    CHECK((ended([](Rig& rig) { rig.loop.requestCaptureEnd(LoopClip::Request::finish); }, 100) ==
           Result{CaptureEnd::complete, 30}));
    CHECK((ended([](Rig&) {}, 33) == Result{CaptureEnd::full, 33}));
}

TEST_CASE("armed and stopped, nothing is captured until the host plays")
{
    Rig rig;
    rig.arm();
    rig.transport.playing = false;
    CHECK((rig.playConstant(0.5f, 2000) == Signal(2000, 0.5f)));
    CHECK(rig.state() == LoopState::armed);
    CHECK(rig.mirrors.empty());
    rig.transport.playing = true;
    rig.playConstant(0.5f, 64);
    CHECK(rig.state() == LoopState::capturing);
}

TEST_CASE("a capture that is too short or cancelled is released, and the clip before it stays")
{
    for (const bool isCancelled : {false, true})
    {
        Rig rig;
        rig.give(0, 50);
        rig.sendAll(1, 0, 50, 1, 0.75f);
        rig.playConstant(0.0f, 320);
        rig.arm();
        rig.playConstant(0.25f, 24 * kFrame);
        CHECK(rig.state() == LoopState::capturing);
        if (isCancelled)
            rig.loop.requestCaptureEnd(LoopClip::Request::cancel);
        rig.locate(0);
        const Signal out = rig.playConstant(0.25f, 10 * kFrame);
        CHECK(rig.captureEnd() == (isCancelled ? CaptureEnd::cancelled : CaptureEnd::tooShort));
        CHECK(rig.state() == LoopState::playing);
        CHECK((rig.released == std::vector<std::int32_t>{2}));
        CHECK(out[1000] == 0.75f);
    }
}

TEST_CASE("an armed capture that is cancelled disarms, also before the audio thread has seen it")
{
    Rig rig;
    rig.arm();
    rig.loop.requestCaptureEnd(LoopClip::Request::cancel);
    rig.playConstant(0.5f, 640);
    CHECK(rig.state() == LoopState::empty);
    CHECK(rig.mirrors.empty());
    CHECK(rig.captureEnd() == CaptureEnd::cancelled);
    rig.arm();
    rig.playConstant(0.5f, 640);
    CHECK(rig.state() == LoopState::capturing);
}

TEST_CASE("when the link thread stalls, a capture is refused, and what it says arrives later")
{
    Rig rig;
    rig.arm();
    rig.serves = false;
    CHECK((rig.playConstant(0.5f, 100 * kFrame) == Signal(100 * kFrame, 0.5f)));
    CHECK(rig.captureEnd() == CaptureEnd::overflow);
    CHECK(rig.telemetry.feedOverflows == 1);
    CHECK(rig.state() == LoopState::empty);
    rig.serve();
    CHECK(rig.released.empty());
    rig.serves = true;
    rig.playConstant(0.5f, 64);
    CHECK((rig.released == std::vector<std::int32_t>{1}));
}

TEST_CASE("the end of a capture is not lost when the feed ring is full at that moment")
{
    Rig rig;
    rig.arm();
    rig.serves = false;
    rig.playConstant(0.5f, (LoopFeed::kRingFrames - 1) * kFrame); // with its begin the ring is full
    rig.stop();
    CHECK(rig.captureEnd() == CaptureEnd::complete);
    rig.serve();
    CHECK_FALSE(rig.mirrors.at(1).isEnded);
    rig.block(Signal(64, 0.0f));
    rig.serve();
    CHECK(rig.mirrors.at(1).isEnded);
}

TEST_CASE("the newest take sounds bit for bit at its place, for any block size")
{
    const Signal input = noise(60 * kFrame, 4);
    const auto wet = [](std::int64_t sample) { return std::sin(0.1f * static_cast<float>(sample)); };
    for (const std::size_t size : kBlocks)
    {
        INFO("block " << size);
        Rig rig;
        rig.give(10, 30);
        for (std::int64_t frame = 10; frame < 40; ++frame)
            REQUIRE(rig.send(1, frame, 1, wet));
        rig.locate(0);
        const Signal out = rig.play(input, size);
        for (std::size_t i = 0; i < out.size(); ++i)
        {
            const bool isInside = i >= 10 * kFrame && i < 40 * kFrame;
            const bool fades =
                (i >= 10 * kFrame && i < 10 * kFrame + 128) || (i >= 40 * kFrame && i < 40 * kFrame + 128);
            if (!fades)
                REQUIRE(out[i] == (isInside ? wet(static_cast<std::int64_t>(i)) : input[i]));
        }
        CHECK(rig.telemetry.lateFrames + rig.telemetry.waitingFrames == 0);
        CHECK(rig.loop.cursor.read().epoch == 1);
    }
}

TEST_CASE("a run that starts inside the clip is exact from its first sample")
{
    Rig rig;
    rig.give(0, 30);
    rig.sendAll(1, 0, 30, 1, 0.75f);
    rig.locate(1234);
    for (const float value : rig.playConstant(-0.5f, 3000))
        REQUIRE(value == 0.75f);
    rig.locate(77);
    for (const float value : rig.playConstant(-0.5f, 3000))
        REQUIRE(value == 0.75f);
}

TEST_CASE("a newer take takes over without a click, at a border and in the middle of a frame, for any block size")
{
    // Two sines of the same pitch and opposite phase: the hardest switch there is.
    constexpr float kOmega = 0.05f;
    const auto first = [](std::int64_t sample) { return std::sin(kOmega * static_cast<float>(sample)); };
    const auto second = [](std::int64_t sample) { return -std::sin(kOmega * static_cast<float>(sample)); };
    for (const std::size_t arrival : {10 * std::size_t{kFrame}, 10 * std::size_t{kFrame} + 160})
    {
        Signal reference;
        for (const std::size_t size : {1, 7, 32, 160, 480, 1600})
        {
            INFO("arrival " << arrival << " block " << size);
            Rig rig;
            rig.give(0, 40);
            for (std::int64_t frame = 0; frame < 40; ++frame)
                REQUIRE(rig.send(1, frame, 1, first));
            Signal out = rig.play(Signal(arrival, 0.0f), size);
            for (std::int64_t frame = 5; frame < 40; ++frame)
                REQUIRE(rig.send(1, frame, 2, second));
            const Signal rest = rig.play(Signal(20 * kFrame, 0.0f), size);
            out.insert(out.end(), rest.begin(), rest.end());
            if (reference.empty())
                reference = out;
            CHECK((out == reference));
        }
        constexpr std::size_t kFade = kRate / 100;
        for (std::size_t i = 0; i < reference.size(); ++i)
        {
            const auto sample = static_cast<std::int64_t>(i);
            if (i < arrival)
                REQUIRE(reference[i] == first(sample));
            else if (i >= arrival + kFade)
                REQUIRE(reference[i] == second(sample));
            else // a linear crossfade of the two
                REQUIRE(reference[i] ==
                        Approx(first(sample) * (1.0f - 2.0f * static_cast<float>(i - arrival) / kFade)).margin(1e-5));
        }
        // The slope of the sine plus that of the fade; a hard switch would step by up to 2.
        CHECK(largestStep(reference) < 1.05f * (kOmega + 2.0f / kFade));
        const float hardSwitch =
            std::abs(second(static_cast<std::int64_t>(arrival)) - first(static_cast<std::int64_t>(arrival) - 1));
        CHECK(hardSwitch > 5.0f * largestStep(reference));
    }
}

TEST_CASE("a take that begins at a coming frame crossfades there, from the take before")
{
    Rig rig;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.5f);
    rig.playConstant(0.0f, 2 * kFrame);
    rig.sendAll(1, 20, 30, 2, -0.5f);
    const Signal out = rig.playConstant(0.0f, 38 * kFrame); // from frame 2 on
    const std::size_t in = 18 * kFrame, back = 28 * kFrame, fade = kRate / 100;
    CHECK(out[in - 1] == 0.5f);
    CHECK(out[in + fade / 2] == Approx(0.0f).margin(1e-6));
    CHECK(out[in + fade] == -0.5f);
    CHECK(out[back - 1] == -0.5f);
    CHECK(out[back + fade] == 0.5f);
    CHECK(largestStep(out) < 1.01f / fade);
}

TEST_CASE("takes with the same bits change nothing")
{
    Rig rig;
    rig.give(0, 40);
    const auto wet = [](std::int64_t sample) { return std::sin(0.3f * static_cast<float>(sample)); };
    std::int32_t take = 1;
    Signal out;
    for (std::int64_t block = 0; block < 90; ++block) // 128 samples each
    {
        for (std::int64_t frame = 0; frame < 40; ++frame)
            rig.send(1, frame, take, wet);
        ++take;
        const Signal part = rig.block(Signal(128, 0.9f));
        out.insert(out.end(), part.begin(), part.end());
    }
    for (std::size_t i = 0; i < out.size(); ++i)
        REQUIRE(out[i] == wet(static_cast<std::int64_t>(i)));
}

TEST_CASE("takes in any order at any time never click")
{
    std::mt19937 random(5);
    for (int repetition = 0; repetition < 20; ++repetition)
    {
        Rig rig;
        rig.controls.outside = repetition % 2 == 0 ? OutsidePolicy::cycle : OutsidePolicy::dry;
        rig.give(0, 40);
        rig.sendAll(1, 0, 40, 1, 0.5f);
        Signal out;
        std::int32_t take = 1;
        while (out.size() < 39 * kFrame)
        {
            if (random() % 3 == 0)
            {
                const std::int64_t first = random() % 40, count = 1 + random() % 25;
                rig.sendAll(1, first, std::min<std::int64_t>(40, first + count), ++take,
                            static_cast<float>(random() % 100) / 100.0f);
            }
            const Signal part = rig.block(Signal(1 + random() % 300, 0.0f));
            out.insert(out.end(), part.begin(), part.end());
        }
        out.resize(39 * kFrame);
        CHECK(largestStep(out) < 2.1f / (kRate / 100)); // two constants within 0..1, and an offset on top
    }
}

TEST_CASE("before the engine has delivered anything frames wait; afterwards a missing one is late")
{
    Rig rig;
    rig.controls.latePolicy = LatePolicy::silence;
    rig.give(0, 40);
    CHECK((rig.playConstant(0.5f, 10 * kFrame) == Signal(10 * kFrame, 0.5f)));
    CHECK(rig.telemetry.waitingFrames == 10);
    CHECK(rig.telemetry.lateFrames == 0);
    rig.sendAll(1, 12, 15, 1, -0.5f);
    const Signal out = rig.playConstant(0.5f, 10 * kFrame); // frames 10..19: 10, 11 late, 12..14 there, the rest late
    CHECK(rig.telemetry.waitingFrames == 10);
    CHECK(rig.telemetry.lateFrames == 7);
    CHECK(out[200] == 0.0f); // silence by policy, once the fade is over
    CHECK(out[2 * kFrame + 200] == -0.5f);
    CHECK(out[5 * kFrame + 200] == 0.0f);
    CHECK(largestStep(out) < 1.1f / 128);

    Rig dry;
    dry.give(0, 40);
    dry.sendAll(1, 12, 15, 1, -0.5f);
    const Signal plain = dry.playConstant(0.5f, 20 * kFrame);
    CHECK(dry.telemetry.lateFrames == 17);
    CHECK(plain[11 * kFrame] == 0.5f);
    CHECK(plain[13 * kFrame] == -0.5f);
    CHECK(plain[16 * kFrame] == 0.5f);
    CHECK(largestStep(plain) < 1.1f / 128);
}

TEST_CASE("a frame that arrives while its replacement sounds fades in")
{
    for (const LatePolicy policy : {LatePolicy::dry, LatePolicy::silence})
        for (const std::size_t arrival : {20, 100, 200}) // the first two inside the fade to the replacement
        {
            Rig rig;
            rig.controls.latePolicy = policy;
            rig.give(0, 40);
            rig.sendAll(1, 0, 5, 1, 0.8f);
            Signal out = rig.playConstant(-0.4f, 5 * kFrame + arrival);
            rig.sendAll(1, 5, 40, 1, 0.8f);
            const Signal rest = rig.playConstant(-0.4f, 5 * kFrame);
            out.insert(out.end(), rest.begin(), rest.end());
            CHECK(largestStep(out) < 1.25f / 128);
            CHECK(out.back() == 0.8f);
            CHECK(rig.telemetry.lateFrames == 1);
        }
}

TEST_CASE("outside the clip the dry signal passes, or the clip goes round")
{
    const auto value = [](std::int64_t frame) { return 0.01f * static_cast<float>(frame); };
    for (const OutsidePolicy outside : {OutsidePolicy::dry, OutsidePolicy::cycle})
    {
        Rig rig;
        rig.controls.outside = outside;
        rig.give(10, 30);
        for (std::int64_t frame = 10; frame < 40; ++frame)
            rig.sendAll(1, frame, frame + 1, 1, value(frame));
        rig.locate(-100 * kFrame);
        for (std::int64_t frame = -100; frame < 100; ++frame)
        {
            const float middle = rig.playConstant(-0.5f, kFrame)[200];
            const std::int64_t inClip = 10 + (((frame - 10) % 30) + 30) % 30;
            const bool isInside = frame >= 10 && frame < 40;
            REQUIRE(middle == (isInside || outside == OutsidePolicy::cycle ? value(inClip) : -0.5f));
            REQUIRE(rig.loop.cursor.read().frame ==
                    (isInside || outside == OutsidePolicy::cycle ? inClip : 10)); // else where it will begin
        }
    }
}

TEST_CASE("a stopped host hears the dry signal")
{
    Rig rig;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.75f);
    rig.playConstant(0.25f, 1000);
    rig.transport.playing = false;
    const Signal out = rig.playConstant(0.25f, 1000);
    CHECK(out[0] == 0.75f); // no jump
    CHECK(largestStep(out) < 0.51f / 128);
    CHECK(out[128] == 0.25f);
}

TEST_CASE("a new clip takes over where it has audio; the old one plays until then and is given back")
{
    Rig rig;
    std::weak_ptr<LoopClip> old = rig.give(0, 100);
    rig.sendAll(1, 0, 50, 1, 0.5f);
    rig.playConstant(0.0f, 10 * kFrame);
    rig.give(0, 100);
    Signal out = rig.playConstant(0.0f, 10 * kFrame);
    CHECK((out == Signal(10 * kFrame, 0.5f)));
    CHECK(rig.loop.cursor.read().epoch == 2); // what the engine should look at
    CHECK(rig.released.empty());
    rig.sendAll(2, 25, 50, 1, -0.5f);
    const Signal rest = rig.playConstant(0.0f, 10 * kFrame); // 20..29
    out.insert(out.end(), rest.begin(), rest.end());
    CHECK(rest[5 * kFrame - 1] == 0.5f);
    CHECK(rest[6 * kFrame] == -0.5f);
    CHECK(largestStep(out) < 1.01f / (kRate / 100));
    CHECK((rig.released == std::vector<std::int32_t>{1}));
    CHECK_FALSE(old.expired());
    rig.loop.tidy();
    CHECK(old.expired());
    CHECK(rig.telemetry.lateFrames == 0);
}

TEST_CASE("a new clip takes over at once where the old one or itself has nothing to play")
{
    const auto tookOver = [](std::int64_t newFirst, std::int64_t playhead)
    {
        Rig rig;
        rig.give(0, 30);
        rig.sendAll(1, 0, 30, 1, 0.5f);
        rig.playConstant(0.0f, kFrame);
        rig.give(newFirst, 30);
        rig.locate(playhead * kFrame);
        rig.playConstant(0.0f, kFrame);
        return !rig.released.empty();
    };
    CHECK_FALSE(tookOver(0, 10));
    CHECK(tookOver(50, 10)); // the new one says: dry
    CHECK(tookOver(50, 55));
    CHECK(tookOver(0, 200));
}

TEST_CASE("clips that replace each other before the audio thread looks are handed back")
{
    Rig rig;
    auto first = LoopClip::given(rig.epochs.next(), defaultTable(0, 30));
    CHECK(rig.loop.offer(first) == nullptr);
    CHECK(rig.loop.offer(LoopClip::given(rig.epochs.next(), defaultTable(0, 30))) == first);
    rig.playConstant(0.0f, 64);
    CHECK(rig.loop.signs.epoch == 2);
    rig.loop.offer(LoopClip::nothing());
    rig.playConstant(0.0f, 64);
    CHECK(rig.state() == LoopState::empty);
    CHECK((rig.released == std::vector<std::int32_t>{2}));
}

TEST_CASE("unloading the clip in the middle of a frame fades to the dry signal")
{
    Rig rig;
    rig.give(0, 30);
    rig.sendAll(1, 0, 30, 1, 0.5f);
    Signal out = rig.playConstant(-0.5f, 1000);
    rig.loop.offer(LoopClip::nothing());
    const Signal rest = rig.playConstant(-0.5f, 1000);
    out.insert(out.end(), rest.begin(), rest.end());
    CHECK(out[1128] == -0.5f);
    CHECK(largestStep(out) < 1.01f / 128);
}

TEST_CASE("while a clip is captured anew the input passes, and then the old clip plays until the new one can")
{
    Rig rig;
    rig.controls.outside = OutsidePolicy::cycle;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.5f);
    rig.playConstant(0.0f, 1000);
    rig.arm();
    CHECK(rig.playConstant(-0.25f, 30 * kFrame).back() == -0.25f);
    rig.locate(5 * kFrame);
    CHECK(rig.playConstant(-0.25f, 5 * kFrame).back() == 0.5f);
    rig.sendAll(2, 3, 34, 1, 0.75f);
    CHECK(rig.playConstant(-0.25f, 5 * kFrame).back() == 0.75f);
    CHECK((rig.released == std::vector<std::int32_t>{1}));
}

TEST_CASE("mix 0, bypass and gain act on a loop at once")
{
    Rig rig;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.5f);
    rig.controls.lanes[lane::mix] = 0.0f;
    const Signal input = noise(2000, 9);
    CHECK((rig.play(input, 160) == input));
    rig.controls.lanes[lane::mix] = 1.0f;
    rig.controls.lanes[lane::output_gain] = -6.0f;
    CHECK(rig.play(input, 160).back() == 0.5f * std::pow(10.0f, -0.3f));
    rig.controls.bypassed = true;
    CHECK(rig.play(input, 160).back() == input.back());
}

TEST_CASE("invalid samples become zero and are counted; an empty block does nothing")
{
    Rig rig;
    Signal input(320, 0.25f);
    input[10] = std::numeric_limits<float>::quiet_NaN();
    input[20] = std::numeric_limits<float>::infinity();
    rig.arm();
    const Signal out = rig.block(input);
    CHECK(rig.telemetry.nonFiniteSamples == 4);
    CHECK(out[10] == 0.0f);
    CHECK(rig.mirrors.at(1).frames[0].second[20] == 0.0f);
    rig.block({});
    CHECK(rig.state() == LoopState::capturing);
    CHECK(rig.transport.sample == 320);
}

TEST_CASE("at an unsupported rate nothing is captured and the dry signal passes")
{
    Rig rig(44110);
    rig.arm();
    const Signal input = noise(5000, 10);
    CHECK((rig.play(input, 512) == input));
    CHECK(rig.state() == LoopState::armed);
    CHECK(rig.mirrors.empty());
}

TEST_CASE("a loop captures and plays at common rates")
{
    for (const int rate : {44100, 48000, 96000})
    {
        INFO("rate " << rate);
        Rig rig(rate);
        rig.arm();
        const Signal input = noise(static_cast<std::size_t>(rate) + 1000, 11);
        rig.play(input, 512);
        rig.locate(0);
        rig.play(Signal(512, 0.0f), 512);
        REQUIRE(rig.mirrors.at(1).frames.size() == 26);
        for (const auto& [frame, audio] : rig.mirrors.at(1).frames)
            rig.send(1, frame, 1,
                     [&, at = &audio, f = frame](std::int64_t sample)
                     { return -(*at)[static_cast<std::size_t>(sample - rig.loop.grid.firstSampleOf(f))]; });
        rig.locate(0);
        const Signal out = rig.play(Signal(input.size(), 0.0f), 480);
        for (std::size_t i = 0; i < out.size(); ++i)
            REQUIRE(out[i] == -input[i]);
    }
}

TEST_CASE("frames of the wrong size, of unknown epochs and outside the clip are ignored")
{
    Rig rig;
    rig.give(0, 30);
    rig.playConstant(0.0f, 64);
    rig.sendAll(7, 0, 5, 1, 0.5f);
    rig.sendAll(1, -5, 0, 1, 0.5f);
    rig.sendAll(1, 30, 35, 1, 0.5f);
    REQUIRE(rig.loop.wetRing.tryPush(
        [](WetFrame& slot)
        {
            slot.epoch = 1;
            slot.frame = 0;
            slot.audio.assign(10, 0.5f);
        }));
    rig.locate(0);
    CHECK((rig.playConstant(0.25f, 40 * kFrame) == Signal(40 * kFrame, 0.25f)));
    CHECK(rig.loop.wetRing.size() == 0);
}

TEST_CASE("the notes tell of every finished frame")
{
    Rig rig;
    rig.give(2, 30);
    rig.sendAll(1, 3, 6, 7, 0.5f);
    rig.controls.lanes[lane::denoise] = 0.25f;
    rig.locate(100);
    rig.playConstant(-0.75f, 8 * kFrame - 100);
    std::vector<FrameNote> notes;
    while (rig.telemetry.notes.tryPop([&](const FrameNote& note) { notes.push_back(note); }))
    {
    }
    REQUIRE(notes.size() == 8);
    const std::vector<FrameStatus> expected{FrameStatus::dry,   FrameStatus::dry,   FrameStatus::late,
                                            FrameStatus::ready, FrameStatus::ready, FrameStatus::ready,
                                            FrameStatus::late,  FrameStatus::late};
    for (std::size_t i = 0; i < notes.size(); ++i)
    {
        INFO("frame " << i);
        CHECK(notes[i].frame == static_cast<std::int64_t>(i));
        CHECK(notes[i].epoch == 1);
        CHECK(notes[i].status == expected[i]);
        CHECK(notes[i].take == (expected[i] == FrameStatus::ready ? 7 : 0));
        CHECK(notes[i].lanes[lane::denoise] == 0.25f);
        CHECK(notes[i].input.lowest == -0.75f);
        CHECK(notes[i].input.highest == 0.0f);
    }
    CHECK(notes[4].output.highest == 0.5f);
    CHECK(notes[4].output.lowest == 0.0f);
}

TEST_CASE("in real time nothing is allocated or freed, whatever happens")
{
    Rig rig;
    rig.controls.outside = OutsidePolicy::cycle;
    std::mt19937 random(12);
    Signal left(480), right(480);
    std::int32_t take = 0;
    std::vector<std::shared_ptr<LoopClip>> offered; // the test frees none of them while it counts
    int total = 0;
    for (int block = 0; block < 3000; ++block)
    {
        switch (random() % 40)
        {
        case 0:
            rig.transport.sample = static_cast<std::int64_t>(random() % 20000);
            break;
        case 1:
            offered.push_back(rig.give(static_cast<std::int64_t>(random() % 10), 60));
            break;
        case 2:
            offered.push_back(rig.arm(60));
            break;
        case 3:
            rig.loop.requestReset();
            break;
        case 4:
            rig.controls.lanes[random() % kLaneCount] = static_cast<float>(random() % 10) / 10.0f;
            break;
        case 5:
            rig.transport.playing = !rig.transport.playing;
            break;
        case 6:
            rig.controls.limit = !rig.controls.limit;
            rig.controls.matchGainDb = static_cast<float>(random() % 5);
            break;
        case 7:
        {
            LaneDrawing drawing;
            drawing.epoch = rig.loop.signs.epoch;
            drawing.count = 20;
            drawing.values[3] = 0.5f;
            rig.loop.draw(drawing);
            break;
        }
        case 8:
            rig.loop.offer(LoopClip::nothing());
            break;
        default:
            for (std::int64_t frame = 0; frame < 60; ++frame)
                rig.send(rig.loop.signs.epoch, frame, ++take / 60, [](std::int64_t) { return 0.9f; });
        }
        std::fill(left.begin(), left.end(), 0.5f);
        std::fill(right.begin(), right.end(), 0.5f);
        allocation_count::start();
        processInRealTime(rig.loop, {left.data(), right.data()}, 480, rig.transport, rig.controls);
        total += allocation_count::stop();
        rig.transport.sample += rig.transport.playing ? 480 : 0;
        rig.serve();
    }
    CHECK(total == 0);
    CHECK(rig.released.size() > 20); // things did happen
}

TEST_CASE("the count of allocations can fail")
{
    allocation_count::start();
    auto made = std::make_unique<std::vector<int>>(3);
    CHECK(made->size() == 3);
    CHECK(allocation_count::stop() > 0);
}

TEST_CASE("host, link and message thread run side by side")
{
    Rig rig;
    rig.serves = false;
    std::atomic<bool> stops{false};
    std::atomic<int> blocks{0};
    std::thread link(
        [&]
        {
            std::int32_t take = 0;
            while (!stops)
            {
                rig.loop.feed.take(
                    [&](FeedItem& item)
                    {
                        if (item.kind == FeedItem::Kind::begin || item.kind == FeedItem::Kind::frame ||
                            item.kind == FeedItem::Kind::end)
                            rig.take(item);
                    },
                    [&](const LaneEdit& edit)
                    {
                        if (const auto found = rig.mirrors.find(edit.epoch); found != rig.mirrors.end())
                            found->second.lanes.apply(edit);
                    });
                rig.loop.spent.freeAll();
                const OutputCursor::Place place = rig.loop.cursor.read();
                ++take;
                for (std::int64_t frame = place.frame; frame < place.frame + 25; ++frame)
                    rig.send(place.epoch, frame, take, [](std::int64_t) { return 0.5f; });
                std::this_thread::yield();
            }
        });
    std::thread message(
        [&]
        {
            int offered = 0;
            for (int i = 0; !stops; ++i)
            {
                if (blocks >= 300 * offered)
                {
                    rig.loop.offer(LoopClip::toCapture(40));
                    ++offered;
                }
                LaneDrawing drawing;
                drawing.epoch = rig.loop.signs.epoch;
                drawing.column = i % 39;
                drawing.count = 10;
                rig.loop.draw(drawing);
                rig.loop.tidy();
                rig.telemetry.notes.tryPop([](const FrameNote&) {});
                rig.telemetry.meters.output.takePeak(0);
                std::this_thread::yield();
            }
        });
    std::mt19937 random(13);
    bool heardWet = false;
    const auto patience =
        std::chrono::steady_clock::now() + std::chrono::seconds(30); // a busy machine starts threads late
    for (; blocks < 4000 || (!heardWet && std::chrono::steady_clock::now() < patience); ++blocks)
    {
        if (random() % 100 == 0)
            rig.locate(static_cast<std::int64_t>(random() % 10000));
        rig.controls.lanes[random() % kLaneCount] = static_cast<float>(random() % 10) / 10.0f;
        Signal left(256, 0.1f), right(256, 0.1f);
        processInRealTime(rig.loop, {left.data(), right.data()}, 256, rig.transport, rig.controls);
        heardWet = heardWet || rig.loop.lastBlock().hasWet;
        rig.transport.sample += 256;
        std::this_thread::yield();
    }
    stops = true;
    link.join();
    message.join();
    CHECK(heardWet);
}
