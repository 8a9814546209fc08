// SPDX-License-Identifier: AGPL-3.0-or-later
// The rules of SPEC.md, section 5.
#include "TrackClientRig.h"
#include "catch.h"

using namespace demon;
using namespace track_client_rig;

TEST_CASE("hello comes first, and nothing else before welcome")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.advance(100);
    REQUIRE(rig.sent.size() == 1);
    CHECK(rig.all<Hello>().front().lanes.size() == kWireLaneCount);
    rig.welcome();
    CHECK(rig.count<Begin>() == 1);
    CHECK(rig.all<Feed>().front().count == 5);
}

TEST_CASE("feeds are joined up to 25 frames")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 60);
    rig.welcome();
    const auto feeds = rig.all<Feed>();
    REQUIRE(feeds.size() == 3);
    CHECK(feeds[0].count == 25);
    CHECK(feeds[2].frame == 50);
    CHECK(feeds[2].count == 10);
    CHECK(feeds[2].audio.size() == 10 * 2 * kFrame);
    CHECK(feeds[2].lanes.size() == 10 * kWireLaneCount);
}

TEST_CASE("without an answer the socket is opened anew, after waits that double up to one second")
{
    Rig rig;
    CHECK(rig.reconnects == 1);
    rig.advance(3000 + 250 + 10);
    CHECK(rig.reconnects == 2);
    rig.advance(3000 + 500 + 10);
    CHECK(rig.reconnects == 3);
    rig.advance(3000 + 1000 + 10);
    CHECK(rig.reconnects == 4);
    rig.advance(2 * (3000 + 1000 + 10));
    CHECK(rig.reconnects == 6);
}

TEST_CASE("three seconds of silence lose the engine, any message keeps it")
{
    Rig rig;
    rig.welcome();
    for (int i = 0; i < 5; ++i)
    {
        rig.advance(2000);
        rig.hear(Pong{});
    }
    CHECK(rig.client.status().state == LinkState::ready);
    CHECK(rig.count<Ping>() >= 38);
    rig.advance(3010);
    CHECK(rig.client.status().state == LinkState::lost);
}

TEST_CASE("a ping names the oldest epoch that is not complete and its first missing frame")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 10);
    rig.begin(2);
    rig.feed(2, 0, 10);
    rig.welcome();
    rig.window(1, 0, 4);
    rig.advance(260);
    CHECK(rig.all<Ping>().back().epoch == 1);
    CHECK(rig.all<Ping>().back().wanted == 4);
    rig.window(1, 4, 6);
    rig.advance(260);
    CHECK(rig.all<Ping>().back().epoch == 2);
    CHECK(rig.all<Ping>().back().wanted == 0);
    CHECK(rig.all<Drop>().back().epoch == 1); // delivered: the engine may forget its windows
}

TEST_CASE("repeated, early and unknown windows are dropped, and the rest of an overlapping one is used")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 20);
    rig.welcome();
    rig.window(1, 0, 4);
    rig.window(1, 0, 4);
    rig.window(1, 8, 2);
    rig.window(7, 0, 1);
    CHECK(rig.takeWindows() == Places{{1, 0}, {1, 1}, {1, 2}, {1, 3}});
    rig.window(1, 2, 4);
    CHECK(rig.takeWindows() == Places{{1, 4}, {1, 5}});
}

TEST_CASE("windows of a later epoch wait for those of the earlier one")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 3);
    rig.begin(2);
    rig.feed(2, 0, 5);
    rig.welcome();
    rig.window(1, 0, 1);
    rig.window(2, 0, 2);
    CHECK(rig.takeWindows() == Places{{1, 0}});
    rig.window(1, 1, 2);
    CHECK(rig.takeWindows() == Places{{1, 1}, {1, 2}, {2, 0}, {2, 1}});

    rig.begin(3);
    rig.feed(3, 0, 5);
    rig.window(3, 0, 1);
    CHECK(rig.takeWindows().empty());
    rig.output = {3, 0}; // the host has played past epoch 2
    rig.advance(1);
    CHECK(rig.takeWindows() == Places{{3, 0}});
}

TEST_CASE("an engine that lags and stands still for two seconds is fed again from where it stands")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 20);
    rig.welcome();
    const int before = rig.count<Feed>();
    for (int i = 0; i < 7; ++i)
    {
        rig.pong(1, 5);
        rig.advance(250);
    }
    CHECK(rig.count<Feed>() == before);
    rig.advance(500);
    rig.pong(1, 5);
    REQUIRE(rig.count<Feed>() == before + 1);
    CHECK(rig.all<Feed>().back().frame == 5);
    CHECK(rig.all<Feed>().back().count == 15);
}

TEST_CASE("an engine that has not heard of the newest epoch for two seconds is told everything again")
{
    Rig rig;
    rig.welcome();
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.hear(Pong{}); // may have crossed the begin
    rig.advance(500);
    CHECK(rig.count<Hello>() == 1);
    rig.pong(1, 5);
    rig.begin(2);
    rig.feed(2, 0, 5);
    for (int i = 0; i < 10; ++i)
    {
        rig.pong(1, 5);
        rig.advance(250);
    }
    CHECK(rig.count<Hello>() == 2);
    rig.welcome();
    CHECK(rig.all<Begin>().back().epoch == 2);
}

TEST_CASE("a feed gap is closed at the next pong")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 20);
    rig.welcome();
    rig.hear(Error{error::feedGap, "", 1});
    rig.pong(1, 0);
    CHECK(rig.all<Feed>().back().frame == 0);
    CHECK(rig.all<Feed>().back().count == 20);
}

TEST_CASE("a restarted engine gets every epoch that is still wanted, from as far back as it asked")
{
    Rig rig;
    rig.welcome(20);
    rig.begin(1);
    rig.feed(1, 0, 100);
    rig.window(1, 0, 60);
    rig.begin(2);
    rig.feed(2, 0, 10);
    rig.sent.clear();
    rig.hear(Error{error::unknownTrack, "", 0});
    rig.advance(300);
    REQUIRE(rig.count<Hello>() == 1);
    CHECK(rig.count<Begin>() == 0);
    rig.welcome(20);
    const auto begins = rig.all<Begin>();
    REQUIRE(begins.size() == 2);
    CHECK(begins[0].epoch == 1);
    CHECK(begins[0].feedFrom == 40);
    CHECK(begins[0].deliverFrom == 60);
    CHECK(begins[1].feedFrom == 0);
    CHECK(rig.all<Feed>().front().frame == 40);
    CHECK(rig.all<End>().front().epoch == 1);
    CHECK(rig.all<End>().front().frame == 100);
}

TEST_CASE("a configuration goes out once, and again when it is not confirmed")
{
    Rig rig;
    rig.welcome();
    Config config;
    config.seed = 5;
    rig.client.configure(config);
    rig.advance(100);
    REQUIRE(rig.count<Configure>() == 1);
    rig.advance(2000);
    CHECK(rig.count<Configure>() == 2);
    rig.hear(Configured{rig.all<Configure>().back().revision});
    rig.advance(2500);
    CHECK(rig.count<Configure>() == 2);
}

TEST_CASE("epochs that a live host has played past are dropped")
{
    Rig rig;
    rig.welcome();
    rig.begin(1, false);
    rig.feed(1, 0, 10);
    rig.begin(2, false);
    rig.feed(2, 0, 10);
    rig.output = {2, 0};
    rig.advance(1);
    CHECK(rig.client.keptEpochs() == 1);
    CHECK(rig.all<Drop>().back().epoch == 1);
}

TEST_CASE("a bounce whose frames had to be given up ends with an error at once")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, static_cast<std::int64_t>(EpochRecord::kMaxKeptFrames) + 500);
    CHECK(rig.client.status().framesGivenUp == 500);
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.welcome();
    CHECK(rig.count<Begin>() == 0);
    CHECK(rig.count<Feed>() == 0);
    CHECK(rig.client.status().errorCode == "E_LIMIT");
    CHECK(rig.client.hopelessEpoch() == 1);
    rig.begin(2);
    rig.feed(2, 0, 5);
    CHECK(rig.all<Begin>().front().epoch == 2);
    rig.tell(2, 0);
    CHECK(rig.client.hopelessEpoch() == 0);
}

TEST_CASE("live, before the first welcome no more is kept than an engine can use")
{
    Rig rig;
    rig.begin(1, false);
    rig.feed(1, 0, 2000);
    rig.tell(1, 1990);
    rig.welcome(160);
    REQUIRE(rig.count<Begin>() == 1);
    CHECK(rig.all<Begin>().front().deliverFrom == 1990);
    CHECK(rig.all<Begin>().front().feedFrom == 1990 - 160);
    CHECK(rig.client.status().framesGivenUp == 0);
}

TEST_CASE("live, memory is bounded")
{
    Rig rig;
    rig.begin(1, false);
    rig.feed(1, 0, 2000);
    rig.welcome(1000); // it is not known yet what sounds
    CHECK(rig.all<Begin>().front().feedFrom == 2000 - 10 - 400);
    CHECK(rig.all<Begin>().front().deliverFrom == 2000 - 10 - 400 + 1000);
}

TEST_CASE("an engine that comes back with a longer memory is never asked for more than it can do")
{
    for (const bool offline : {true, false})
    {
        Rig rig;
        rig.welcome(20);
        rig.begin(1, offline);
        rig.feed(1, 0, 100);
        rig.window(1, 0, 60); // frames from 40 on are kept
        rig.sent.clear();
        rig.hear(Error{error::unknownTrack, "", 0});
        rig.advance(300);
        rig.welcome(50);
        if (offline)
        {
            CHECK(rig.count<Begin>() == 0);
            CHECK(rig.client.status().errorCode == "E_LIMIT");
            continue;
        }
        REQUIRE(rig.count<Begin>() == 1);
        CHECK(rig.all<Begin>().front().feedFrom == 40);
        CHECK(rig.all<Begin>().front().deliverFrom == 90);
        CHECK(rig.client.status().framesGivenUp == 30);
    }
}

TEST_CASE("live, what has sounded is not wanted any more")
{
    for (const bool offline : {true, false})
    {
        Rig rig;
        rig.welcome();
        rig.begin(1, offline);
        rig.feed(1, 0, 60);
        rig.window(1, 0, 10);
        rig.tell(1, 5);
        CHECK(rig.takeWindows().front() == std::pair<std::int32_t, std::int64_t>{1, offline ? 0 : 5});
        rig.tell(1, 30);
        rig.advance(260);
        CHECK(rig.all<Ping>().back().wanted == (offline ? 10 : 30));
        rig.window(1, 10, 10);
        CHECK(rig.takeWindows().size() == (offline ? 10 : 0));
        rig.window(1, offline ? 20 : 28, 10);
        CHECK(rig.takeWindows().front() == std::pair<std::int32_t, std::int64_t>{1, offline ? 20 : 30});
        CHECK(rig.count<Begin>() == 1);
    }
}

TEST_CASE("live, an epoch that has sounded to its end is done with")
{
    Rig rig;
    rig.welcome();
    rig.begin(1, false);
    rig.feed(1, 0, 10);
    rig.begin(2, false); // ends it
    rig.tell(1, 12);
    rig.advance(1);
    CHECK(rig.client.keptEpochs() == 1);
    CHECK(rig.all<Drop>().back().epoch == 1);
}

TEST_CASE("windows of what was never fed are not kept")
{
    Rig rig;
    rig.welcome();
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.window(1, 0, 200);
    CHECK(rig.takeWindows().size() == 5);
    rig.window(1, 5, 200);
    CHECK(rig.takeWindows().empty());
    rig.feed(1, 5, 1);
    rig.window(1, 5, 1);
    CHECK(rig.takeWindows() == Places{{1, 5}});
}

TEST_CASE("after a pause nothing is sent twice")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 20);
    rig.welcome();
    for (int i = 0; i < 20; ++i)
    {
        rig.pong(1, 20);
        rig.advance(250);
    }
    rig.feed(1, 20, 5);
    const int before = rig.count<Feed>();
    rig.pong(1, 20); // has crossed the feed
    CHECK(rig.count<Feed>() == before);
}

TEST_CASE("another endpoint is greeted at once, and every epoch is resumed where it stands")
{
    Rig rig;
    rig.welcome(20);
    rig.begin(1);
    rig.feed(1, 0, 100);
    rig.window(1, 0, 60);
    rig.sent.clear();
    rig.client.reconnect();
    rig.advance(1);
    CHECK(rig.reconnects == 2);
    REQUIRE(rig.count<Hello>() == 1);
    rig.welcome(20);
    REQUIRE(rig.count<Begin>() == 1);
    CHECK(rig.all<Begin>().front().feedFrom == 40);
    CHECK(rig.all<Begin>().front().deliverFrom == 60);
    CHECK(rig.takeWindows().size() == 60);
}

TEST_CASE("a refusal is hopeless until the next try, a fault of this end is tried again")
{
    Rig rig;
    rig.hear(Error{error::busy, "", 0});
    CHECK(rig.client.hopelessEpoch() == EngineSigns::kEveryEpoch);
    rig.advance(2000);
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.welcome();
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.client.fail("E_LINK", "", rig.now);
    CHECK(rig.client.status().state == LinkState::lost);
    CHECK(rig.client.status().errorCode == "E_LINK");
    rig.advance(260);
    CHECK(rig.count<Hello>() == 3);
}

TEST_CASE("a hello can be refused by each code that SPEC.md names for it, and is said again")
{
    const bool isFinal = GENERATE(true, false);
    const auto codes =
        isFinal
            ? std::vector<const char*>{"E_PROTOCOL_VERSION", "E_SAMPLE_RATE", "E_LATENCY", "E_BUSY", "E_KEYS"}
            : std::vector<const char*>{"E_MALFORMED", "E_FIELD", "E_UNKNOWN_MESSAGE", "E_LIMIT", "E_RATE", "E_ENGINE"};
    for (const char* const code : codes)
    {
        CAPTURE(code);
        Rig rig;
        rig.hear(Error{code, "why", 0});
        CHECK(rig.client.status().state == LinkState::refused);
        CHECK(rig.client.status().errorCode == code);
        CHECK(rig.client.hopelessEpoch() == (isFinal ? EngineSigns::kEveryEpoch : 0));
        rig.advance(1990);
        CHECK(rig.count<Hello>() == 1);
        rig.advance(20);
        CHECK(rig.count<Hello>() == 2);
        rig.welcome();
        CHECK(rig.client.status().state == LinkState::ready);
    }
}

TEST_CASE("what answers a message before the hello does not refuse it")
{
    Rig rig;
    rig.hear(Error{error::limit, "of a feed", 7});
    rig.hear(Error{error::lora, "no answer to a hello", 0});
    CHECK(rig.client.status().state == LinkState::waiting);
    rig.welcome();
    CHECK(rig.client.status().state == LinkState::ready);
}

TEST_CASE("a track that is shut out is refused, and tries a new connection until it is let in")
{
    Rig rig;
    const bool wasReady = GENERATE(true, false);
    if (wasReady)
        rig.welcome();
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.sent.clear();
    rig.client.shutOut("no such key", rig.now);
    rig.advance(1990);
    CHECK(rig.client.status().state == LinkState::refused);
    CHECK(rig.client.status().errorCode == "E_KEYS");
    CHECK(rig.client.status().errorText == "no such key");
    CHECK(rig.client.hopelessEpoch() == EngineSigns::kEveryEpoch);
    CHECK(rig.sent.empty());
    CHECK(rig.reconnects == 1);
    rig.advance(20);
    CHECK(rig.reconnects == 2);
    CHECK(rig.count<Hello>() == 1);
    CHECK(rig.client.status().errorCode == "E_KEYS"); // until it is known that it is over
    CHECK(rig.client.hopelessEpoch() == 0);
    SECTION("by a welcome")
    {
        rig.welcome();
        CHECK(rig.all<Begin>().back().epoch == 1);
        CHECK(rig.fedTo() == 5);
    }
    SECTION("by silence")
    {
        rig.advance(3010);
        CHECK(rig.client.status().state == LinkState::lost);
    }
    CHECK(rig.client.status().errorCode.empty());
}

TEST_CASE("a track that is shut out where it was sent to asks where it came from, and a bounce waits")
{
    Rig rig;
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    rig.advance(1);
    rig.client.shutOut("no such key", rig.now);
    CHECK(rig.client.status().state == LinkState::refused);
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.advance(2010);
    CHECK_FALSE(rig.client.redirect());
    CHECK(rig.reconnects == 3);
}

TEST_CASE("a track that wants nothing is not shut out")
{
    Rig rig;
    rig.client.close();
    rig.client.shutOut("no such key", rig.now);
    CHECK(rig.client.status().state == LinkState::idle);
    CHECK(rig.client.status().errorCode.empty());
}

TEST_CASE("a track that had a place waits for another where all are taken")
{
    Rig rig;
    rig.begin(1);
    rig.welcome();
    rig.advance(3010); // the engine has ended
    rig.advance(300);
    const int before = rig.count<Hello>();
    rig.hear(Error{error::busy, "", 0});
    CHECK(rig.client.status().errorCode == error::busy);
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.advance(2010);
    CHECK(rig.count<Hello>() == before + 1);
}

TEST_CASE("the user may see how far a run is known and how far it has come")
{
    Rig rig;
    rig.welcome();
    CHECK(rig.client.status().fedTo == 0);
    rig.begin(1, false);
    rig.feed(1, 0, 10);
    rig.window(1, 0, 4);
    CHECK(rig.client.status().readyTo == 4);
    CHECK(rig.client.status().fedTo == 10);
}

TEST_CASE("every epoch is fed again from where it stands, not only the newest")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 20);
    rig.begin(2);
    rig.feed(2, 0, 5);
    rig.welcome();
    const int before = rig.count<Feed>();
    rig.hear(Error{error::feedGap, "", 1});
    rig.hear(Pong{rig.count<Ping>(), {1, 2}, {8, 5}, 0.0, 0.0});
    REQUIRE(rig.count<Feed>() == before + 1);
    CHECK(rig.all<Feed>().back().epoch == 1);
    CHECK(rig.all<Feed>().back().frame == 8);
}

TEST_CASE("no more is fed than the engine has given credit for")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 100);
    rig.welcome(20, 30);
    CHECK(rig.fedTo() == 30);
    rig.advance(1000);
    CHECK(rig.fedTo() == 30);
    rig.hear(Pong{0, {1}, {10}, 0.0, 0.0}); // unasked, as input was taken
    CHECK(rig.fedTo() == 40);
    rig.hear(Pong{0, {1}, {40}, 0.0, 0.0});
    CHECK(rig.fedTo() == 70);
    rig.hear(Pong{0, {1}, {100}, 0.0, 0.0});
    CHECK(rig.fedTo() == 100);
}

TEST_CASE("the end of an epoch waits for credit like its frames")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 40);
    rig.end(1, 40);
    rig.welcome(20, 30);
    CHECK(rig.count<End>() == 0);
    rig.hear(Pong{0, {1}, {30}, 0.0, 0.0});
    CHECK(rig.count<End>() == 1);
}

TEST_CASE("an end of which nothing comes is said again once everything was taken")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 40);
    rig.end(1, 40);
    rig.welcome();
    const auto live = [&](std::int64_t milliseconds, std::int64_t expected)
    {
        for (std::int64_t i = 0; i < milliseconds; i += 250)
        {
            rig.advance(250);
            rig.pong(1, expected);
        }
    };
    live(1500, 40);
    CHECK(rig.count<End>() == 1);
    rig.hear(Progress{1, 0, 3, 8}); // it is being made
    live(1500, 40);
    CHECK(rig.count<End>() == 1);
    live(1000, 40);
    CHECK(rig.count<End>() == 2);
    live(1000, 40);
    CHECK(rig.count<End>() == 2);
    rig.window(1, 0, 40);
    live(5000, 40);
    CHECK(rig.count<End>() == 2);
}

TEST_CASE("an epoch that pongs still name after its drop is dropped again")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.welcome();
    rig.begin(2);
    rig.feed(2, 0, 5);
    rig.output = {2, 0};
    rig.advance(0);
    REQUIRE(rig.count<Drop>() == 1);
    for (int i = 0; i < 8; ++i)
    {
        rig.advance(240);
        rig.hear(Pong{0, {1, 2}, {5, 5}, 0.0, 0.0});
    }
    CHECK(rig.count<Drop>() == 1);
    rig.advance(500);
    rig.hear(Pong{0, {1, 2}, {5, 5}, 0.0, 0.0});
    CHECK(rig.count<Drop>() == 2);
    CHECK(rig.all<Drop>().back().epoch == 1);
    rig.hear(Pong{0, {2}, {5}, 0.0, 0.0});
    rig.advance(2500);
    CHECK(rig.count<Drop>() == 2);
}

TEST_CASE("windows are acknowledged at once when a quarter of the credit has come")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 200);
    rig.welcome();
    rig.advance(1);
    const std::int64_t quarter = rig.all<Hello>().front().credit / 4;
    const int before = rig.count<Ping>();
    rig.window(1, 0, quarter - 1);
    CHECK(rig.count<Ping>() == before);
    rig.window(1, quarter - 1, 2);
    REQUIRE(rig.count<Ping>() == before + 1);
    CHECK(rig.all<Ping>().back().received == quarter + 1);
    CHECK(rig.all<Ping>().back().wanted == quarter + 1);
    rig.welcome();
    rig.client.reconnect();
    rig.advance(1);
    rig.welcome();
    CHECK(rig.all<Ping>().back().received == 0); // counted from the welcome
}

TEST_CASE("only the answer to the last ping tells the round trip")
{
    Rig rig;
    rig.welcome();
    rig.advance(10);
    rig.hear(Pong{0, {}, {}, 0.0, 0.0});
    CHECK(rig.client.status().roundTripNanoseconds == 0);
    rig.hear(Pong{rig.all<Ping>().back().number, {}, {}, 0.0, 0.0});
    CHECK(rig.client.status().roundTripNanoseconds > 0);
}

TEST_CASE("every welcome names the audio socket once")
{
    Rig rig;
    CHECK(rig.client.takeTicket().empty());
    rig.welcome();
    CHECK(rig.client.takeTicket() == std::string(kTicketDigits, 'a'));
    CHECK(rig.client.takeTicket().empty());
}

TEST_CASE("a redirected track says hello there, and comes back when it is lost")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    CHECK(rig.reconnects == 2);
    CHECK(rig.count<Hello>() == 2);
    REQUIRE(rig.client.redirect());
    CHECK(rig.client.redirect()->endpoint == "tcp://127.0.0.1:5000");
    rig.welcome();
    CHECK(rig.count<Begin>() == 1);
    SECTION("by silence") { rig.advance(3000 + 300); }
    SECTION("by a restart there") { rig.hear(Error{error::unknownTrack, "", 0}); }
    SECTION("since it closes") { rig.hear(Closing{"drained"}); }
    SECTION("since its connection ends") { rig.client.disconnect(rig.now); }
    CHECK_FALSE(rig.client.redirect());
    rig.advance(300);
    CHECK(rig.reconnects == 3);
    rig.welcome();
    CHECK(rig.count<Begin>() == 2);
}

TEST_CASE("an engine at the user's own address is not lost when its connection ends: it may be back at once")
{
    Rig rig;
    rig.begin(1);
    rig.welcome();
    rig.client.disconnect(rig.now);
    CHECK(rig.client.status().state == LinkState::ready);
}

TEST_CASE("a new audio connection in the place of another: what was on the way goes again at once, both ways")
{
    Rig rig;
    rig.client.resumeAudio(rig.now);
    CHECK(rig.count<Resend>() == 0); // there is none before the welcome
    rig.begin(1);
    rig.feed(1, 0, 40);
    rig.end(1, 40);
    rig.welcome();
    rig.pong(1, 10);
    Config config;
    config.prompt = "other";
    rig.client.configure(config);
    rig.advance(1);
    REQUIRE(rig.fedTo() == 40);
    const int feeds = rig.count<Feed>(), pings = rig.count<Ping>();
    rig.client.resumeAudio(rig.now);
    rig.advance(2);
    CHECK(rig.count<Resend>() == 1);
    CHECK(rig.count<Ping>() == pings + 1);
    CHECK(rig.count<Configure>() == 2); // it was not confirmed
    CHECK(rig.count<End>() == 2);
    CHECK(rig.count<Feed>() == feeds); // it is not known what was lost
    rig.pong(1, 25);
    rig.advance(1);
    CHECK(rig.all<Feed>()[static_cast<std::size_t>(feeds)].frame == 25);
    CHECK(rig.fedTo() == 40);
    CHECK(rig.count<Hello>() == 1);
    CHECK(rig.count<Begin>() == 1);
}

TEST_CASE("a new audio connection before the engine has told of an epoch: its begin may be lost, the track opens anew")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.welcome();
    rig.client.resumeAudio(rig.now);
    rig.advance(240);
    CHECK(rig.count<Hello>() == 1);
    rig.advance(20); // no sooner after the last one than a lost engine is tried again
    CHECK(rig.count<Hello>() == 2);
    CHECK(rig.reconnects == 2);
    CHECK(rig.count<Resend>() == 0);
}

TEST_CASE("a hello whose connection ends before the answer is said again")
{
    Rig rig;
    rig.advance(100);
    rig.client.disconnect(rig.now);
    rig.advance(160);
    CHECK(rig.count<Hello>() == 2);
    CHECK(rig.reconnects == 2);
}

TEST_CASE("an engine that one was sent to and that does not answer is left sooner, but later each time")
{
    Rig rig;
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    rig.advance(1000 + 250 + 10);
    CHECK(rig.count<Hello>() == 3); // back home
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    rig.advance(1500);
    CHECK(rig.client.status().state == LinkState::waiting);
    rig.advance(1500);
    CHECK(rig.count<Hello>() == 5);
}

TEST_CASE("a track that is refused where it was sent to asks where it came from again")
{
    Rig rig;
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    rig.advance(1);
    rig.hear(Error{error::busy, "", 0});
    CHECK(rig.client.hopelessEpoch() == EngineSigns::kEveryEpoch);
    rig.advance(2010);
    CHECK_FALSE(rig.client.redirect());
    CHECK(rig.reconnects == 3);
    CHECK(rig.count<Hello>() == 3);
}

TEST_CASE("an engine that one was sent to sends nobody further")
{
    Rig rig;
    rig.hear(Redirect{"tcp://127.0.0.1:5000", ""});
    rig.hear(Redirect{"tcp://127.0.0.1:6000", ""});
    CHECK(rig.client.status().state == LinkState::lost);
    CHECK_FALSE(rig.client.redirect());
    rig.advance(300);
    CHECK(rig.count<Hello>() == 3);
}

TEST_CASE("an engine that closes is left at once and tried again soon")
{
    Rig rig;
    rig.begin(1);
    rig.feed(1, 0, 5);
    rig.welcome();
    rig.hear(Closing{"the engine stops"});
    CHECK(rig.client.status().state == LinkState::lost);
    CHECK(rig.client.status().errorCode.empty());
    rig.advance(260);
    CHECK(rig.reconnects == 2);
    rig.welcome();
    CHECK(rig.all<Begin>().back().feedFrom == 0);
}

TEST_CASE("audio is packed if the owner wishes it and the engine agrees")
{
    Rig rig;
    CHECK(rig.all<Hello>().back().packing == "none");
    rig.client.wishPacking("zstd");
    rig.client.reconnect();
    rig.advance(0);
    CHECK(rig.all<Hello>().back().packing == "zstd");
    rig.begin(1);
    SECTION("it agrees")
    {
        rig.welcome(20, 250, "zstd");
        rig.feed(1, 0, 5);
        CHECK(rig.all<Feed>().back().packing == "zstd");
    }
    SECTION("it does not")
    {
        rig.welcome();
        rig.feed(1, 0, 5);
        CHECK(rig.all<Feed>().back().packing == "none");
    }
}

TEST_CASE("where a track is sent to, it asks for what its owner wishes there")
{
    Rig rig;
    rig.client.receive(Redirect{"tcp://10.0.0.7:5000", ""}, rig.now);
    REQUIRE(rig.client.redirect());
    rig.client.wishPacking("zstd"); // its owner has seen the address
    rig.advance(0);
    CHECK(rig.count<Hello>() == 2);
    CHECK(rig.all<Hello>().back().packing == "zstd");
}
