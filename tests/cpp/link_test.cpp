// SPDX-License-Identifier: AGPL-3.0-or-later
// Stream, link and a real socket, against a small engine in the same process.
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>
#ifndef _WIN32
#include <sys/resource.h>
#endif

#include "Eventually.h"
#include "FakeEngine.h"
#include "StreamTrack.h"
#include "WaitCount.h"
#include "catch.h"
#include "link/EngineLink.h"
#include "link/EngineSocket.h"

using namespace demon;
using namespace std::chrono_literals;
using namespace stream_track;

TEST_CASE("a bounce through the engine is exact")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    track.transport.sample = 777;
    track.play(200);
    CHECK(track.isAllWet());
    CHECK(track.telemetry.lateFrames == 0);
    CHECK(engine.hellos == 1);
    CHECK(engine.begins == 1);
}

TEST_CASE("audio within this machine is not packed")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    track.play(100);
    CHECK(track.isAllWet());
    CHECK(engine.packedFeeds == 0);
}

TEST_CASE("a bounce waits for an engine that starts late")
{
    const std::string endpoint = freeEndpoint();
    Track track(endpoint);
    std::unique_ptr<FakeEngine> engine;
    std::thread later(
        [&]
        {
            std::this_thread::sleep_for(500ms);
            engine = std::make_unique<FakeEngine>(endpoint);
        });
    track.play(100);
    later.join();
    CHECK(track.isAllWet());
}

TEST_CASE("an engine that dies in a bounce and comes back is fed again, and nothing is missing")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    track.play(100);
    std::thread restart(
        [&]
        {
            engine.stop();
            std::this_thread::sleep_for(300ms);
            engine.start();
        });
    track.play(200);
    restart.join();
    track.play(100);
    CHECK(track.isAllWet());
    CHECK(engine.begins >= 2);
}

TEST_CASE("an engine that has forgotten the track is greeted again, in the middle of a bounce")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    track.play(100);
    engine.forgetTracks();
    track.play(200);
    CHECK(track.isAllWet());
    CHECK(engine.hellos >= 2);
    CHECK(engine.unknownAnswers >= 1);
}

TEST_CASE("when the audio connection alone ends, in the middle of a bounce, what was lost goes again")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    track.play(100);
    REQUIRE(engine.hellos == 1);
    for (int cut = 1; cut <= 3; ++cut)
    {
        engine.holdsWindows = true;
        const int before = engine.frames;
        std::thread later(
            [&]
            {
                // There is something to lose: windows that are still in the socket's queue.
                CHECK(eventually([&] { return engine.frames > before; }));
                engine.holdsWindows = false;
                engine.cutAudio();
            });
        track.play(200);
        later.join();
        CHECK(track.isAllWet());
        CHECK(eventually([&] { return engine.resends == cut; }));
    }
    CHECK(engine.hellos == 1);
}

TEST_CASE("several epochs in flight are all resumed")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    engine.holdsWindows = true;
    Track track(endpoint);
    track.play(3);
    track.transport.sample = 50000;
    track.play(2); // less than the latency so far: nothing has been waited for
    REQUIRE(eventually([&] { return engine.frames >= 5; }));
    engine.forgetTracks();
    engine.holdsWindows = false;
    track.play(100);
    CHECK(track.isAllWet());
}

TEST_CASE("live, late windows are replaced and counted without any waiting, and playing recovers")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint, false);
    REQUIRE(eventually([&] { return track.link.status().state == LinkState::ready; }));
    engine.holdsWindows = true;
    const WaitCount waits;
    track.play(40);
    CHECK(waits.count() <= WaitCount::kUnasked);
    CHECK(track.telemetry.lateFrames > 40);
    engine.holdsWindows = false;
    const auto late = [&] { return track.telemetry.lateFrames.load(); };
    CHECK(eventually(
        [&]
        {
            const std::int64_t before = late();
            std::this_thread::sleep_for(125ms); // real time
            track.play(2);
            return late() == before;
        }));
}

TEST_CASE("live, after a restart the engine is asked only for what has not sounded yet")
{
    const std::string endpoint = freeEndpoint();
    auto engine = std::make_unique<FakeEngine>(endpoint);
    Track track(endpoint, false);
    REQUIRE(eventually([&] { return track.link.status().state == LinkState::ready; }));
    engine.reset();
    track.play(100); // 156 frames without an engine
    engine = std::make_unique<FakeEngine>(endpoint);
    REQUIRE(eventually([&] { return engine->begins >= 1 && engine->frames > 0; }));
    std::this_thread::sleep_for(100ms);
    CHECK(engine->frames <= kLatencyFrames + 20 + 3);
}

TEST_CASE("a configuration set before a run is sent before its frames")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track(endpoint);
    REQUIRE(eventually([&] { return track.link.status().state == LinkState::ready; }));
    Config config;
    config.prompt = "strings";
    track.link.setConfig(config);
    track.play(20);
    CHECK(engine.configures == 1);
}

TEST_CASE("a refusal is shown with its code, and cleared when acknowledged")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    engine.stop();
    engine.refusal = {"E_BUSY", "no more tracks", 0};
    engine.start();
    Track track(endpoint);
    REQUIRE(eventually([&] { return track.link.status().errorCode == "E_BUSY"; }));
    CHECK(track.link.status().state == LinkState::refused);
    track.link.acknowledgeError();
    CHECK(track.link.status().errorCode.empty());
}

TEST_CASE("an endpoint that is no address is an error, not a crash")
{
    Track track("nonsense");
    CHECK(eventually([&] { return track.link.status().errorCode == "E_ENDPOINT"; }));
}

TEST_CASE("an endpoint and a stream that come together are one beginning")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Telemetry telemetry;
    EpochNumbers epochs;
    EngineLink link("tcp://127.0.0.1:9", "test", Config());
    link.setEndpoint(endpoint);
    link.attach(PlayerPort(std::make_shared<Stream>(kRate, kLatencyFrames, epochs, telemetry)));
    REQUIRE(eventually([&] { return link.status().state == LinkState::ready; }));
    std::this_thread::sleep_for(100ms);
    CHECK(engine.hellos == 1);
}

TEST_CASE("another endpoint in the middle of a bounce changes nothing but who answers")
{
    const std::string first = freeEndpoint(), second = freeEndpoint();
    FakeEngine engine(first), other(second);
    Track track(first);
    track.play(100);
    track.link.setEndpoint(second);
    track.play(200);
    CHECK(track.isAllWet());
    CHECK(track.telemetry.lateFrames == 0);
    CHECK(other.begins == 1);
}

TEST_CASE("an engine hears that its track has gone to another")
{
    const std::string first = freeEndpoint(), second = freeEndpoint();
    FakeEngine engine(first), other(second);
    Track track(first);
    REQUIRE(eventually([&] { return engine.found == 1; }));
    int moves = 0;
    CHECK(eventually(
        [&]
        {
            const int hellos = engine.hellos + other.hellos;
            track.link.setEndpoint(++moves % 2 != 0 ? second : first); // again: a busy machine may lose a farewell
            REQUIRE(eventually([&] { return engine.hellos + other.hellos > hellos; }));
            return engine.byes + other.byes > 0;
        }));
}

TEST_CASE("an engine may be named by the name of its machine")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    Track track("tcp://localhost" + endpoint.substr(endpoint.rfind(':')));
    track.play(100);
    CHECK(track.isAllWet());
}

TEST_CASE("a bounce does not wait for an engine that refuses the track")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    engine.stop();
    engine.refusal = {"E_LATENCY", "needs 64 frames", 0};
    engine.start();
    Track track(endpoint);
    const WaitCount waits;
    track.play(100);
    CHECK(waits.count() < WaitCount::ofOneWait(3000)); // until the refusal, not for the 15 s without one
    CHECK(track.telemetry.timedOut);
    CHECK(eventually([&] { return track.link.status().errorCode == "E_LATENCY"; }));
}

#ifndef _WIN32
TEST_CASE("a connection that cannot be made is an error that passes, and never ends the host")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    rlimit none = before;
    none.rlim_cur = 3; // not one more file
    Track track("nonsense");
    REQUIRE(eventually([&] { return track.link.status().errorCode == "E_ENDPOINT"; }));
    setrlimit(RLIMIT_NOFILE, &none);
    track.link.setEndpoint(endpoint);
    const bool isShown = eventually([&] { return track.link.status().errorCode == "E_LINK"; });
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK(isShown);
    track.play(100);
    CHECK(track.isAllWet());
}
#endif

TEST_CASE("a track follows a redirect, whose host may be that of the endpoint")
{
    const std::string home = freeEndpoint(), there = freeEndpoint();
    FakeEngine engine(there);
    FakeEngine gateway(home);
    gateway.stop();
    gateway.redirect.endpoint = "tcp://*:" + there.substr(there.rfind(':') + 1);
    gateway.start();
    Track track(home);
    track.play(100);
    CHECK(track.isAllWet());
    CHECK(gateway.hellos == 1);
    CHECK(engine.hellos == 1);
}

TEST_CASE("a track whose engine dies goes back to where it was sent from")
{
    const std::string home = freeEndpoint(), there = freeEndpoint();
    FakeEngine gateway(home), engine(there);
    gateway.stop();
    gateway.redirect.endpoint = there;
    gateway.start();
    Track track(home);
    track.play(100);
    engine.stop();
    CHECK(eventually([&] { return gateway.hellos >= 2; }));
    engine.start();
    track.play(100);
    CHECK(track.isAllWet());
}

TEST_CASE("a socket knows that its connection has ended")
{
    const std::string endpoint = freeEndpoint();
    EngineSocket socket;
    {
        FakeEngine engine(endpoint);
        REQUIRE(socket.open(endpoint));
        Hello hello;
        hello.client = "x";
        socket.send(hello);
        REQUIRE(eventually([&] { return engine.hellos == 1; }));
        CHECK_FALSE(socket.hasDisconnected());
    }
    CHECK(eventually([&] { return socket.hasDisconnected(); }));
    CHECK_FALSE(socket.hasDisconnected());
    socket.close();
    CHECK_FALSE(socket.hasDisconnected());
}

TEST_CASE("sockets that are closed while their engine dies leave the others at work")
{
    FakeEngine last(freeEndpoint());
    EngineSocket other; // of the same context
    REQUIRE(other.open(last.address()));
    Hello hello;
    hello.client = "x";
    for (int i = 0; i < 300; ++i)
    {
        auto engine = std::make_unique<FakeEngine>(freeEndpoint());
        EngineSocket socket;
        REQUIRE(socket.open(engine->address()));
        socket.send(hello);
        REQUIRE(eventually([&] { return engine->hellos == 1; }));
        std::thread death([&] { engine.reset(); });
        std::this_thread::sleep_for(std::chrono::microseconds(10 * (i % 100)));
        socket.close();
        death.join();
    }
    other.send(hello);
    CHECK(eventually([&] { return last.hellos == 1; }));
}

TEST_CASE("construction and destruction are quick without an engine")
{
    const std::int64_t startedAt = steadyNanoseconds();
    for (int i = 0; i < 100; ++i)
        Track track("tcp://127.0.0.1:9");
    CHECK(steadyNanoseconds() - startedAt < 10'000'000'000); // 100 ms each; they take about one
}
