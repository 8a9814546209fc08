// SPDX-License-Identifier: AGPL-3.0-or-later
// What the link does for loops: clips, takes, edits, commits; and references.
#include "TemporaryFolder.h"
#include "TrackClientRig.h"
#include "catch.h"
#include "services/RenderRecorder.h"

using namespace track_client_rig;

namespace
{
constexpr std::int32_t kClip = 5;

std::shared_ptr<const ClipAudio> clipOf(std::int64_t firstFrame, std::int64_t frames)
{
    auto clip = std::make_shared<ClipAudio>();
    clip->rate = kRate;
    clip->firstFrame = firstFrame;
    clip->frames = frames;
    clip->audio.resize(2 * clip->samples());
    for (std::size_t i = 0; i < clip->audio.size(); ++i)
        clip->audio[i] = static_cast<float>(i % 977) / 977.0f;
    return clip;
}

std::shared_ptr<LaneTable> lanesOf(const ClipAudio& clip, float value)
{
    auto lanes = std::make_shared<LaneTable>(clip.frames);
    lanes->begin(clip.firstFrame);
    WireLaneValues row{};
    row.fill(value);
    for (std::int64_t i = 0; i < clip.frames; ++i)
        lanes->append(row);
    return lanes;
}

FeedItem beginOfCapture(std::int32_t epoch)
{
    FeedItem item;
    item.kind = FeedItem::Kind::begin;
    item.epoch = epoch;
    item.loop = true;
    return item;
}

struct LoopRig : Rig
{
    std::shared_ptr<const ClipAudio> source = clipOf(-20, 60);

    explicit LoopRig(RenderRecorder* renders = nullptr) : Rig(renders)
    {
        client.open(kRate, 0, true);
        sent.clear();
        advance(0);
    }
    void openClip()
    {
        client.openClip({kClip, source, lanesOf(*source, 0.25f)});
        advance(0);
    }
    void edit(std::int32_t column, std::int64_t first, std::int64_t end, float value)
    {
        LaneEdit change;
        change.epoch = kClip;
        change.column = column;
        change.first = first;
        change.end = end;
        change.value = value;
        client.accept(change);
        advance(0);
    }
    void commit(std::int32_t epoch)
    {
        FeedItem item;
        item.kind = FeedItem::Kind::commit;
        item.epoch = epoch;
        item.of = kClip;
        client.accept(item);
        advance(0);
    }
    void take(std::int64_t number, std::int64_t frame, std::int64_t count, float value)
    {
        hear(Window{kClip, number, frame, count, "none",
                    std::vector<float>(2 * kFrame * static_cast<std::size_t>(count), value)});
    }
    std::vector<WetFrame> takeFrames()
    {
        std::vector<WetFrame> frames;
        while (const WetFrame* next = client.nextWindow())
        {
            frames.push_back(*next);
            client.popWindow();
        }
        return frames;
    }
};

/// The lane's value that the engine was last fed with at a frame.
float fedLane(const std::vector<Feed>& feeds, std::int64_t frame, std::size_t column)
{
    float value = -1.0f;
    for (const Feed& feed : feeds)
        if (frame >= feed.frame && frame < feed.frame + feed.count)
            value = feed.lanes[static_cast<std::size_t>(frame - feed.frame) * kWireLaneCount + column];
    return value;
}
} // namespace

TEST_CASE("a loop says so, and its clip is fed whole, with its lanes, and ended")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    CHECK(rig.all<Hello>().back().mode == "loop");
    CHECK(rig.all<Hello>().back().latency == 0);
    REQUIRE(rig.count<Begin>() == 1);
    const Begin begin = rig.all<Begin>().back();
    CHECK(begin.kind == "loop");
    CHECK(begin.start == -20 * static_cast<std::int64_t>(kFrame));
    CHECK(begin.feedFrom == -20);
    CHECK(begin.deliverFrom == -20);
    CHECK_FALSE(begin.offline);
    std::int64_t expected = -20;
    for (const Feed& feed : rig.all<Feed>())
    {
        CHECK(feed.frame == expected);
        expected += feed.count;
        CHECK(feed.audio.front() == rig.source->at(feed.frame, 0)[0]);
        CHECK(feed.audio[static_cast<std::size_t>(feed.count) * kFrame] == rig.source->at(feed.frame, 1)[0]);
        CHECK(feed.lanes.front() == 0.25f);
    }
    CHECK(expected == 40);
    REQUIRE(rig.count<End>() == 1);
    CHECK(rig.all<End>().back().frame == 40);
}

TEST_CASE("a captured clip is fed as it comes, and known whole at its end")
{
    LoopRig rig;
    rig.welcome();
    rig.client.accept(beginOfCapture(kClip));
    rig.feed(kClip, 0, 30);
    CHECK(rig.client.clip().source == nullptr);
    rig.end(kClip, 30);
    rig.advance(0);
    CHECK(rig.count<Begin>() == 1);
    CHECK(rig.count<End>() == 1);
    REQUIRE(rig.client.clip().source != nullptr);
    CHECK(rig.client.clip().source->frames == 30);
    CHECK(rig.client.clip().source->at(29, 1)[kFrame - 1] == 0.5f);
    CHECK(rig.client.clip().lanes->frames() == 30);
}

TEST_CASE("takes come in any order, of each frame only the newest, and a restarted engine counts on")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.take(1, 10, 3, 1.0f);
    rig.take(1, -20, 2, 1.0f);
    rig.take(2, 11, 1, 2.0f);
    rig.take(1, 39, 2, 1.0f); // reaches beyond the clip
    const auto frames = rig.takeFrames();
    REQUIRE(frames.size() == 5);
    CHECK(frames[0].frame == 10);
    CHECK(frames[1].frame == 12);
    CHECK(frames[2].frame == -20);
    CHECK(frames[4].frame == 11);
    CHECK(frames[4].take == 2);
    CHECK(frames[4].audio.front() == 2.0f);

    rig.hear(Error{error::unknownTrack, "", 0});
    rig.advance(300);
    rig.welcome();
    rig.take(1, 10, 1, 3.0f);
    const auto later = rig.takeFrames();
    REQUIRE(later.size() == 1);
    CHECK(later[0].take == 3);
}

TEST_CASE("the playhead is told every 50 ms, and a commit's acknowledgement comes before it")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.sent.clear();
    rig.tell(kClip, 7);
    rig.advance(1000);
    CHECK(rig.count<Ping>() >= 18);
    CHECK(rig.all<Ping>().back().epoch == kClip);
    CHECK(rig.all<Ping>().back().wanted == 7);
    rig.commit(9);
    rig.sent.clear();
    rig.advance(1000);
    CHECK(rig.count<Ping>() <= 5);
    CHECK(rig.all<Ping>().back().epoch == 9);
    CHECK(rig.all<Ping>().back().wanted == -20);
}

TEST_CASE("an edit is one message at a time, and what comes meanwhile is joined")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.edit(0, -10, 40, 0.5f);
    REQUIRE(rig.count<Edit>() == 1);
    const Edit first = rig.all<Edit>().back();
    CHECK(first.count == 1);
    CHECK(first.edits == std::vector<float>{0.0f, 10.0f, 60.0f, 0.5f}); // frames from the clip's first
    for (int i = 0; i < 50; ++i)
        rig.edit(1, -9 + i / 10, 40, 0.01f * static_cast<float>(i));
    rig.edit(3, 0, 0, 1.0f); // says nothing to the engine
    CHECK(rig.count<Edit>() == 1);
    rig.hear(Edited{kClip, first.revision});
    REQUIRE(rig.count<Edit>() == 2);
    const Edit second = rig.all<Edit>().back();
    CHECK(second.revision == first.revision + 1);
    CHECK(second.count == 5); // one per start: later fills cover earlier ones
    CHECK(second.edits.back() == 0.01f * 49.0f);
    rig.hear(Edited{kClip, second.revision});
    rig.advance(100);
    CHECK(rig.count<Edit>() == 2);
    CHECK(rig.client.clip().lanes->at(1, 39) == 0.01f * 49.0f);
}

TEST_CASE("an edit without an answer is sent again, and after a restart the lanes are fed as they are")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.edit(0, 0, 40, 0.75f);
    rig.advance(2100);
    CHECK(rig.count<Edit>() == 2);
    CHECK(rig.all<Edit>()[0].edits == rig.all<Edit>()[1].edits);
    rig.edit(2, 5, 6, 0.5f);
    rig.sent.clear();
    rig.hear(Error{error::unknownTrack, "", 0});
    rig.advance(300);
    rig.welcome();
    CHECK(fedLane(rig.all<Feed>(), 0, 0) == 0.75f);
    CHECK(fedLane(rig.all<Feed>(), -1, 0) == 0.25f);
    CHECK(fedLane(rig.all<Feed>(), 5, 2) == 0.5f);
    CHECK(rig.count<Edit>() == 0);
}

TEST_CASE("lanes that cost the engine something are sent less often")
{
    LoopRig rig;
    rig.openClip();
    Welcome welcome;
    const auto ids = wireLaneIds();
    welcome.lanes = {ids[0], ids[1]};
    welcome.costs = {"free", "refit"};
    rig.hear(welcome);
    const auto flood = [&](std::int32_t column)
    {
        int messages = 0;
        for (int i = 0; i < 100; ++i) // one second, an edit every 10 ms, answered at once
        {
            rig.sent.clear();
            rig.edit(column, i % 40, 40, 0.01f * static_cast<float>(i + 1));
            rig.advance(9);
            for (const Edit& edit : rig.all<Edit>())
            {
                ++messages;
                rig.hear(Edited{kClip, edit.revision});
            }
        }
        return messages;
    };
    CHECK(flood(0) == 100);
    const int refits = flood(1);
    CHECK(refits >= 3);
    CHECK(refits <= 5);
}

TEST_CASE("a commit is fed whole with the lanes of its moment, and delivered in order like a bounce")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.edit(0, -20, 40, 0.5f);
    rig.sent.clear();
    rig.commit(9);
    rig.edit(0, -20, 40, 0.125f); // later
    REQUIRE(rig.count<Begin>() == 1);
    CHECK(rig.all<Begin>().back().kind == "commit");
    CHECK(rig.all<Begin>().back().offline);
    CHECK(fedLane(rig.all<Feed>(), 0, 0) == 0.5f);
    rig.window(9, -20, 60);
    CHECK(rig.takeFrames().size() == 60);
    CHECK(rig.all<Drop>().back().epoch == 9); // delivered
    CHECK(rig.client.clip().source != nullptr);
}

TEST_CASE("a commit goes on where it was after the engine has restarted")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.commit(9);
    rig.window(9, -20, 25);
    rig.takeFrames();
    rig.sent.clear();
    rig.hear(Error{error::unknownTrack, "", 0});
    rig.advance(300);
    rig.welcome();
    const std::vector<Begin> begins = rig.all<Begin>();
    REQUIRE(begins.size() == 2);
    CHECK(begins[0].kind == "loop");
    CHECK(begins[1].kind == "commit");
    CHECK(begins[1].feedFrom == -20);
    CHECK(begins[1].deliverFrom == 5);
    rig.window(9, 5, 35);
    CHECK(rig.takeFrames().size() == 35);
}

TEST_CASE("the bounce of a long clip is kept with its whole source, however little the disk takes at a time")
{
    const TemporaryFolder folder;
    RecorderLimits limits;
    limits.waitingBytes = std::size_t{1} << 20;
    RenderRecorder recorder(folder.path, limits);
    LoopRig rig(&recorder);
    constexpr std::int64_t frames = RenderFile::kMaxUnansweredFrames + 100;
    rig.source = clipOf(-20, frames);
    rig.openClip();
    Welcome engine;
    engine.server = "demon-bridge 1.2.3";
    engine.checkpoint = "tiny";
    rig.hear(engine);
    rig.commit(9);
    for (std::int64_t first = 0; first < frames; first += 100)
    {
        rig.window(9, first - 20, 100);
        rig.takeFrames();
        recorder.flush();
    }
    CHECK_FALSE(recorder.problem());
    const auto render = recorder.lastComplete();
    REQUIRE(render != nullptr);
    CHECK(render->receipt.samples == frames * static_cast<std::int64_t>(kFrame));
    CHECK(render->receipt.sourceSha256 == hashFloats(rig.source->audio.data(), rig.source->audio.size()));
    CHECK(render->receipt.engine.demon == "1.2.3");
    CHECK(render->inputHashes.back() != 0); // a clip's last frame is a whole one
}

TEST_CASE("a commit without its clip is an error, and one that the engine fails is hopeless at once")
{
    LoopRig rig;
    rig.welcome();
    rig.commit(9);
    CHECK(rig.client.status().errorCode == error::clip);
    rig.openClip();
    rig.commit(10);
    CHECK(rig.client.hopelessEpoch() == 0);
    rig.hear(Error{error::engine, "no memory", 10});
    CHECK(rig.client.hopelessEpoch() == 10);
}

TEST_CASE("a loop's end is said again until anything comes of it, and not while it rests")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    const std::int64_t end = rig.source->endFrame();
    const auto live = [&](int seconds)
    {
        for (int i = 0; i < 4 * seconds; ++i)
        {
            rig.advance(250);
            rig.pong(kClip, end);
        }
    };
    live(1);
    CHECK(rig.count<End>() == 1);
    live(2);
    CHECK(rig.count<End>() == 2);
    rig.take(1, 0, 5, 1.0f);
    live(5);
    CHECK(rig.count<End>() == 2);
}

TEST_CASE("a released clip is dropped with all that belongs to it")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.take(1, 0, 5, 1.0f);
    FeedItem item;
    item.kind = FeedItem::Kind::release;
    item.epoch = kClip;
    rig.client.accept(item);
    rig.advance(0);
    CHECK(rig.all<Drop>().back().epoch == kClip);
    CHECK(rig.takeFrames().empty());
    CHECK(rig.client.clip().source == nullptr);
    CHECK(rig.client.keptEpochs() == 0);
}

TEST_CASE("a long clip does not fill the memory twice: it is fed as the engine takes it")
{
    LoopRig rig;
    rig.source = clipOf(0, 6000);
    rig.openClip();
    rig.welcome();
    const auto fed = [&]
    {
        std::int64_t frames = 0;
        for (const Feed& feed : rig.all<Feed>())
            frames += feed.count;
        return frames;
    };
    CHECK(fed() <= 250);
    CHECK(rig.count<End>() == 0);
    for (int i = 0; i < 30 && rig.count<End>() == 0; ++i)
    {
        rig.pong(kClip, fed());
        rig.advance(1);
    }
    CHECK(fed() == 6000);
    CHECK(rig.count<End>() == 1);
}

TEST_CASE("a reference goes out in pieces whenever the engine asks for it, and not before")
{
    Rig rig;
    auto reference = std::make_shared<ReferenceAudio>();
    reference->hash = std::string(64, 'a');
    reference->rate = 48000;
    reference->audio.resize(2 * 100000);
    for (std::size_t i = 0; i < reference->audio.size(); ++i)
        reference->audio[i] = static_cast<float>(i);
    rig.client.provide({reference});
    rig.welcome(20, 250, "zstd");
    Config config;
    config.timbre = reference->hash;
    rig.client.configure(config);
    rig.advance(500);
    CHECK(rig.count<Configure>() == 1); // until it was taken, the engine would refuse the reference
    CHECK(rig.count<Reference>() == 0);
    rig.hear(Configured{rig.all<Configure>().back().revision});
    const Error wanted{error::reference, reference->hash + ": the timbre reference is not here yet", 0};
    rig.hear(wanted);
    REQUIRE(rig.count<Reference>() == 2);
    const std::vector<Reference> pieces = rig.all<Reference>();
    CHECK(pieces[0].total == 100000);
    CHECK(pieces[1].first == 65536);
    CHECK(pieces[1].packing == "zstd");
    CHECK(pieces[0].count + pieces[1].count == 100000);
    CHECK(pieces[1].audio[0] == 65536.0f);
    CHECK(pieces[1].audio[static_cast<std::size_t>(pieces[1].count)] == 165536.0f);
    rig.advance(500);
    CHECK(rig.count<Reference>() == 2);
    rig.hear(wanted); // the engine has lost it
    CHECK(rig.count<Reference>() == 4);
    CHECK(rig.client.status().errorCode.empty());
    rig.hear(Error{error::reference, "send " + std::string(64, 'b'), 0}); // nobody has it
    CHECK(rig.client.status().errorCode == error::reference);
}

TEST_CASE("a capture that begins keeps the edits of the clip that still plays")
{
    LoopRig rig;
    rig.openClip();
    rig.welcome();
    rig.edit(0, -20, 40, 0.5f);
    REQUIRE(rig.count<Edit>() == 1);
    rig.edit(0, -20, 40, 0.75f); // waits for the answer to the first
    rig.client.accept(beginOfCapture(kClip + 1));
    rig.advance(0);
    rig.hear(Edited{kClip, rig.all<Edit>().back().revision});
    REQUIRE(rig.count<Edit>() == 2);
    CHECK(rig.all<Edit>().back().epoch == kClip);
}

TEST_CASE("a LoRA that the engine lacks makes waiting hopeless until another configuration is taken")
{
    Rig rig;
    rig.welcome();
    rig.begin(1);
    rig.hear(Error{error::lora, "no such LoRA", 0});
    CHECK(rig.client.hopelessEpoch() == EngineSigns::kEveryEpoch);
    CHECK(rig.client.status().errorCode == error::lora);
    Config config;
    config.prompt = "without";
    rig.client.configure(config);
    rig.advance(0);
    rig.hear(Configured{rig.all<Configure>().back().revision});
    CHECK(rig.client.hopelessEpoch() == 0);
}
