// SPDX-License-Identifier: AGPL-3.0-or-later
// A loop offline: captures and bounces.
#include <atomic>
#include <thread>

#include "LoopRig.h"
#include "WaitCount.h"

using namespace demon;
using namespace loop_rig;

namespace
{
/// An engine on its own thread: once a clip is asked for, it sends what `value` says, frame by frame.
class Engine
{
public:
    template <class Value>
    Engine(Rig& loopRig, std::int64_t clipFirst, std::int64_t clipEnd, Value value)
        : thread(
              [this, &loopRig, clipFirst, clipEnd, value]
              {
                  std::size_t answered = 0;
                  while (!stops)
                  {
                      loopRig.serve();
                      for (; answered < loopRig.commits.size(); ++answered)
                          for (std::int64_t frame = clipFirst; frame < clipEnd && !stops;)
                          {
                              const std::int32_t epoch = loopRig.commits[answered].epoch;
                              loopRig.send(epoch - 1, frame, 50, [](std::int64_t) { return -1.0f; }); // a take, too
                              if (loopRig.send(epoch, frame, 0, value))
                                  ++frame;
                              else
                                  loopRig.serve();
                          }
                      std::this_thread::yield();
                  }
              })
    {
    }
    ~Engine() { finish(); }
    void finish()
    {
        stops = true;
        if (thread.joinable())
            thread.join();
    }

private:
    std::atomic<bool> stops{false};
    std::thread thread;
};

float bounced(std::int64_t sample) { return 0.001f * static_cast<float>((sample % 977 + 977) % 977); }

Rig& offline(Rig& rig)
{
    rig.transport.offline = true;
    rig.timeout = 5'000'000'000;
    return rig;
}
} // namespace

TEST_CASE("a bounce plays the commit and nothing else, the same bits for every block size")
{
    const Signal input = noise(70 * kFrame, 1);
    for (const OutsidePolicy outside : {OutsidePolicy::dry, OutsidePolicy::cycle})
    {
        Signal reference;
        std::vector<std::size_t> sizes = kBlocks;
        sizes.push_back(0);
        for (const std::size_t size : sizes)
        {
            INFO("block " << size);
            Rig rig;
            rig.controls.outside = outside;
            rig.give(10, 50);
            rig.sendAll(1, 10, 60, 1, 0.75f); // a take that must not be heard
            rig.playConstant(0.3f, 5 * kFrame);
            rig.serves = false;
            offline(rig).locate(-7 * kFrame - 11);
            Signal out;
            {
                Engine engine(rig, 10, 60, bounced);
                RandomBlocks blocks(static_cast<unsigned>(size));
                while (out.size() < input.size())
                {
                    const std::size_t left = input.size() - out.size();
                    const std::size_t count = size == 0 ? blocks.next(left) : std::min(size, left);
                    const auto from = input.begin() + static_cast<std::ptrdiff_t>(out.size());
                    const Signal part = rig.block(Signal(from, from + static_cast<std::ptrdiff_t>(count)));
                    out.insert(out.end(), part.begin(), part.end());
                }
            }
            if (reference.empty())
                reference = out;
            CHECK((out == reference));
            CHECK(rig.commits.size() == 1);
            CHECK(rig.commits[0].of == 1);
            CHECK_FALSE(rig.telemetry.timedOut);
            CHECK_FALSE(rig.telemetry.noClip);
            CHECK_FALSE(rig.telemetry.commitStale);
            CHECK(rig.telemetry.lateFrames == 0);
        }
        for (std::int64_t i = 0; i < 70 * kFrame; ++i)
        {
            const std::int64_t sample = -7 * kFrame - 11 + i, inClip = sample - 10 * kFrame;
            const float got = reference[static_cast<std::size_t>(i)];
            if (outside == OutsidePolicy::cycle)
                REQUIRE(got == bounced(10 * kFrame + (inClip % (50 * kFrame) + 50 * kFrame) % (50 * kFrame)));
            else if (inClip < 0 || inClip >= 50 * kFrame + 128)
                REQUIRE(got == input[static_cast<std::size_t>(i)]);
            else if (inClip >= 128 && inClip < 50 * kFrame)
                REQUIRE(got == bounced(sample));
        }
    }
}

TEST_CASE("offline, a first pass captures and a second one bounces; positions count from the reset")
{
    Rig rig; // a host without a transport
    offline(rig);
    rig.transport.hasPosition = rig.transport.playing = false;
    rig.serves = false;
    rig.arm(100);
    const Signal input = noise(30 * kFrame + 100, 2);
    Engine engine(rig, 0, 31, bounced);
    CHECK((rig.play(input, 1000) == input));
    CHECK_FALSE(rig.telemetry.noClip);
    rig.loop.requestReset();
    const Signal out = rig.play(input, 1000);
    for (std::size_t i = 0; i < out.size(); ++i)
        REQUIRE(out[i] == bounced(static_cast<std::int64_t>(i)));
    rig.loop.requestReset();
    CHECK((rig.play(input, 512) == out));
    engine.finish();
    rig.serve();
    REQUIRE(rig.commits.size() == 2);
    CHECK(rig.commits[0].of == rig.commits[1].of);
    CHECK(rig.mirrors.at(1).offline);
    CHECK(rig.mirrors.at(1).frames.size() == 31);
    CHECK((rig.released == std::vector<std::int32_t>{2})); // the first commit
}

TEST_CASE("offline without a clip the dry signal passes, and the user is told")
{
    Rig rig;
    offline(rig);
    const Signal input = noise(3000, 3);
    CHECK((rig.play(input, 512) == input));
    CHECK(rig.telemetry.noClip);
    CHECK(rig.commits.empty());
    rig.transport.offline = false;
    rig.give(0, 30);
    rig.playConstant(0.0f, 64);
    rig.transport.offline = true;
    rig.timeout = 1'000'000;
    rig.playConstant(0.0f, 64);
    CHECK_FALSE(rig.telemetry.noClip);
}

TEST_CASE("a commit is asked once per way offline, not per loop jump, and real time plays takes again")
{
    Rig rig;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.75f);
    rig.playConstant(0.0f, kFrame);
    rig.serves = false;
    offline(rig).locate(0);
    {
        Engine engine(rig, 0, 40, bounced);
        for (int pass = 0; pass < 3; ++pass)
        {
            rig.locate(100);
            const Signal out = rig.playConstant(0.0f, 10 * kFrame);
            for (std::size_t i = 0; i < out.size(); ++i)
                REQUIRE(out[i] == bounced(static_cast<std::int64_t>(i) + 100));
        }
    }
    CHECK(rig.commits.size() == 1);
    rig.serves = true;
    rig.transport.offline = false;
    rig.locate(0);
    const Signal live = rig.playConstant(0.0f, 1000);
    CHECK((live == Signal(1000, rig.loop.lastBlock().hasWet ? live[0] : 2.0f)));
    CHECK((live[0] == 0.75f || live[0] == -1.0f)); // the newest take, whichever the engine sent last
    CHECK((rig.released == std::vector<std::int32_t>{2}));
    offline(rig).timeout = 1'000'000;
    rig.playConstant(0.0f, 64);
    CHECK(rig.commits.size() == 2);
}

TEST_CASE("after a bounce the commit's buffers are given back")
{
    Rig rig;
    auto clip = rig.give(0, 40);
    rig.serves = false;
    offline(rig);
    {
        Engine engine(rig, 0, 40, bounced);
        rig.playConstant(0.0f, 40 * kFrame);
    }
    CHECK(clip->bounce.at(39));
    rig.transport.offline = false;
    rig.serves = true;
    rig.playConstant(0.0f, 1000, 100);
    for (std::int64_t frame = 0; frame < 40; ++frame)
        CHECK_FALSE(clip->bounce.at(frame));
}

TEST_CASE("a bounce without an engine gives up once, and is dry")
{
    Rig rig;
    rig.give(0, 100);
    rig.sendAll(1, 0, 64, 1, 0.75f);
    rig.controls.latePolicy = LatePolicy::silence; // is for real time
    rig.transport.offline = true;
    rig.timeout = 100'000'000;
    const Signal input = noise(100 * kFrame, 4);
    const std::int64_t startedAt = steadyNanoseconds();
    const WaitCount waits;
    CHECK((rig.play(input, 512) == input));
    CHECK(static_cast<double>(steadyNanoseconds() - startedAt) * 1e-9 > 0.09);
    CHECK(waits.count() <= WaitCount::ofOneWait(100) + WaitCount::kUnasked);
    CHECK(rig.telemetry.timedOut);
    CHECK(rig.telemetry.lateFrames == 100);
}

TEST_CASE("a bounce does not wait for a commit that the engine has refused")
{
    for (const std::int32_t hopeless : {EngineSigns::kEveryEpoch, 2})
    {
        Rig rig;
        rig.give(0, 100);
        rig.engineSigns.hopelessEpoch = hopeless;
        rig.transport.offline = true;
        rig.timeout = 2'000'000'000;
        const WaitCount waits;
        rig.playConstant(0.5f, 20 * kFrame);
        CHECK(waits.count() <= WaitCount::kUnasked);
        CHECK(rig.telemetry.timedOut);
    }
}

TEST_CASE("a bounce whose commit finds no room for its request gives up as well")
{
    Rig rig;
    rig.give(0, 100);
    rig.playConstant(0.0f, 64);
    rig.serves = false;
    while (rig.loop.feed.frames.tryPush([](FeedItem&) {}))
    {
    }
    rig.transport.offline = true;
    rig.timeout = 50'000'000;
    CHECK((rig.playConstant(0.5f, 20 * kFrame) == Signal(20 * kFrame, 0.5f)));
    CHECK(rig.telemetry.timedOut);
}

TEST_CASE("a commit has exactly the edits that were made before it")
{
    Rig rig;
    auto clip = rig.give(0, 40);
    rig.serves = false; // until the commit is in the ring
    for (int frame = 0; frame < 40; ++frame)
    {
        for (float& value : rig.controls.lanes)
            value = 0.25f * static_cast<float>((frame * 7) % 4);
        rig.playConstant(0.0f, kFrame, kFrame); // more edits than the ring holds
    }
    const LaneTable before = clip->memory.table();
    rig.controls.lanes[lane::denoise] = 0.123f; // departs in the bounce's first frame
    offline(rig).locate(0);
    {
        Engine engine(rig, 0, 40, bounced);
        rig.playConstant(0.0f, 40 * kFrame);
    }
    REQUIRE(rig.commits.size() == 1);
    LaneTable atCommit = rig.commits[0].lanes;
    CHECK(sameLanes(atCommit, before));
    CHECK(rig.telemetry.commitStale);
    CHECK(clip->memory.table().at(0, 5) == 0.123f); // recorded for the next one
    rig.serve();
    CHECK(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));

    rig.loop.requestReset();
    rig.locate(0);
    {
        Engine engine(rig, 0, 40, bounced);
        rig.playConstant(0.0f, 40 * kFrame);
    }
    CHECK_FALSE(rig.telemetry.commitStale);
    CHECK(sameLanes(rig.commits[1].lanes, clip->memory.table()));
}

TEST_CASE("a drawing during a bounce makes it stale")
{
    Rig rig;
    rig.give(0, 40);
    rig.serves = false;
    offline(rig);
    Engine engine(rig, 0, 40, bounced);
    rig.playConstant(0.0f, 2 * kFrame);
    CHECK_FALSE(rig.telemetry.commitStale);
    LaneDrawing drawing;
    drawing.epoch = 1;
    drawing.count = 1;
    rig.loop.draw(drawing);
    rig.playConstant(0.0f, 2 * kFrame);
    CHECK(rig.telemetry.commitStale);
}

TEST_CASE("a clip that was offered last is the one that a bounce plays")
{
    Rig rig;
    rig.give(0, 40);
    rig.sendAll(1, 0, 40, 1, 0.75f);
    rig.playConstant(0.0f, 64);
    rig.give(0, 40); // without audio yet: the old one still plays
    CHECK(rig.playConstant(0.0f, 64).back() == 0.75f);
    rig.serves = false;
    offline(rig);
    {
        Engine engine(rig, 0, 40, bounced);
        rig.playConstant(0.0f, kFrame);
    }
    REQUIRE(rig.commits.size() == 1);
    CHECK(rig.commits[0].of == 2);
    rig.give(0, 40); // while it bounces: waits
    {
        rig.playConstant(0.0f, kFrame);
    }
    CHECK(rig.loop.signs.isBouncing);
    CHECK(rig.commits.size() == 1);
}

TEST_CASE("armed during a bounce, the capture ends it")
{
    Rig rig;
    rig.give(0, 40);
    rig.serves = false;
    offline(rig);
    Engine engine(rig, 0, 40, bounced);
    rig.playConstant(0.5f, 1000);
    rig.arm(30);
    const Signal out = rig.playConstant(0.5f, 30 * kFrame, 333);
    CHECK(out[128] == 0.5f);
    CHECK(out[1000] == 0.5f);
}

TEST_CASE("captured and gone on offline, the clip is bounced in the same run, alike for every block size")
{
    Signal reference;
    for (const std::size_t size : {64, 320, 500, 4096})
    {
        Rig rig;
        rig.controls.outside = OutsidePolicy::cycle;
        rig.serves = false;
        offline(rig);
        rig.arm(30);
        Engine engine(rig, 0, 30, bounced);
        const Signal out = rig.playConstant(0.5f, 60 * kFrame, size);
        if (reference.empty())
            reference = out;
        CHECK((out == reference));
        CHECK(out[29 * kFrame] == 0.5f);
        CHECK(out[31 * kFrame] == bounced(kFrame));
    }
}
