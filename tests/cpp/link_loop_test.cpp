// SPDX-License-Identifier: AGPL-3.0-or-later
// Loop, link and a real socket, against a small engine in the same process.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "Eventually.h"
#include "FakeEngine.h"
#include "LoopRig.h"
#include "catch.h"
#include "link/EngineLink.h"

using namespace demon;
using loop_rig::kFrame;
using loop_rig::kRate;
using loop_rig::Signal;

namespace
{
constexpr std::size_t kClip = 60 * kFrame; ///< two windows of the engine, and a part of one

/// One track: what the processor does, without a host.
struct Track
{
    Telemetry telemetry;
    EpochNumbers epochs;
    std::shared_ptr<Loop> loop = std::make_shared<Loop>(kRate, epochs, telemetry);
    EngineLink link;
    Transport transport;
    Controls controls = loop_rig::defaultControls();

    Track(const std::string& endpoint, bool offline) : link(endpoint, "test", Config())
    {
        transport.offline = offline;
        transport.hasPosition = true;
        link.attach(PlayerPort(loop));
    }

    /// One run over the timeline from zero on, in blocks of 500.
    Signal play(const Signal& input)
    {
        transport.playing = true;
        transport.sample = 0;
        Signal output;
        for (std::size_t at = 0; at < input.size(); at += 500)
        {
            const auto from = input.begin() + static_cast<std::ptrdiff_t>(at);
            Signal left(from, from + static_cast<std::ptrdiff_t>(std::min<std::size_t>(500, input.size() - at)));
            Signal right = left;
            const int count = static_cast<int>(left.size());
            OfflineWait waiter(link.signs(), 30'000'000'000);
            NeverWait never;
            transport.offline ? loop->process({left.data(), right.data()}, count, transport, controls, waiter)
                              : loop->process({left.data(), right.data()}, count, transport, controls, never);
            transport.sample += count;
            output.insert(output.end(), left.begin(), left.end());
        }
        transport.playing = false;
        Signal left(64), right(64);
        NeverWait never;
        loop->process({left.data(), right.data()}, 64, transport, controls, never);
        return output;
    }

    Signal capture(const Signal& input)
    {
        loop->offer(LoopClip::toCapture(200));
        return play(input);
    }
};

Signal negative(Signal signal)
{
    for (float& value : signal)
        value = -value;
    return signal;
}

const Signal kQuiet(kClip, 0.0f);
} // namespace

TEST_CASE("a captured clip is played as the engine makes it")
{
    for (const bool offline : {true, false})
    {
        CAPTURE(offline);
        FakeEngine engine(freeEndpoint());
        Track track(engine.address(), offline);
        const Signal input = loop_rig::noise(kClip, 1);
        CHECK((track.capture(input) == input));
        CHECK(eventually([&] { return track.play(kQuiet) == negative(input); }));
        CHECK((track.play(kQuiet) == negative(input)));
        CHECK(engine.frames == (offline ? 120 : 60));
        CHECK(engine.commits == (offline ? 1 : 0)); // both passes are the same bounce
    }
}

TEST_CASE("a clip that sounds is known, so that another player can have it")
{
    FakeEngine engine(freeEndpoint());
    for (int round = 0; round < 10; ++round)
    {
        Track track(engine.address(), false);
        const Signal input = loop_rig::noise(kClip, 1);
        track.capture(input);
        REQUIRE(eventually([&] { return track.play(kQuiet).front() == -input.front(); }));
        const ClipSource clip = track.link.clip();
        REQUIRE(clip.source != nullptr);
        CHECK(clip.source->audio.front() == input.front());
    }
}

TEST_CASE("a turned lane is an edit, which the engine takes and answers by a further take")
{
    FakeEngine engine(freeEndpoint());
    Track track(engine.address(), false);
    const Signal input = loop_rig::noise(kClip, 1);
    track.capture(input);
    REQUIRE(eventually([&] { return track.play(kQuiet) == negative(input); }));
    CHECK(engine.loopWindows == 3);
    CHECK(engine.edits == 0);
    track.controls.lanes[lane::denoise] = 0.25f;
    CHECK(eventually(
        [&]
        {
            track.play(kQuiet);
            return engine.edits > 0 && track.link.status().take > 1;
        }));
    CHECK(track.link.status().errorCode.empty());
    CHECK(eventually([&] { return track.play(kQuiet) == negative(input); })); // takes are equal, and it rests
}

TEST_CASE("an engine that was restarted is fed the clip again, and a bounce in progress ends with the same bits")
{
    FakeEngine engine(freeEndpoint());
    engine.holdsFrom = 25; // the first second comes, the rest does not
    Track track(engine.address(), true);
    const Signal input = loop_rig::noise(kClip, 1);
    track.capture(input);
    std::thread restart(
        [&]
        {
            (void)eventually([&] { return track.link.status().windows >= 25 && engine.commits == 1; });
            engine.stop();
            engine.holdsFrom = FakeLoop::kEverything;
            engine.start();
        });
    const Signal output = track.play(kQuiet);
    restart.join();
    CHECK((output == negative(input)));
    CHECK(engine.commits == 2);
    CHECK_FALSE(track.telemetry.timedOut);
}
