// SPDX-License-Identifier: AGPL-3.0-or-later
// Lanes of a clip: what the host plays, what the user draws, and the copy that the link keeps.
#include <thread>

#include "Eventually.h"
#include "LoopRig.h"

using namespace demon;
using namespace loop_rig;

namespace
{
constexpr std::size_t kDenoise = 0, kVelocity = 1; // columns

/// A memory over [first, first + frames) with room for `room` edits on their way to a copy.
struct MemoryRig
{
    explicit MemoryRig(std::int64_t first = 100, std::int64_t frames = 50, std::size_t room = 1000)
        : memory(defaultTable(first, frames)), copy(defaultTable(first, frames)), ring(room)
    {
    }

    auto send()
    {
        return [this](const LaneEdit& edit) { return ring.tryPush([&](LaneEdit& slot) { slot = edit; }); };
    }
    bool follow(std::int64_t frame) { return memory.follow(frame, host, send()); }
    void draw(std::size_t column, std::int64_t first, const std::vector<float>& values)
    {
        LaneDrawing drawing;
        drawing.column = static_cast<std::int32_t>(column);
        drawing.first = first;
        drawing.count = static_cast<std::int32_t>(values.size());
        std::copy(values.begin(), values.end(), drawing.values.begin());
        memory.draw(drawing, host, send());
    }
    int apply()
    {
        int count = 0;
        while (ring.tryPop([&](const LaneEdit& edit) { copy.apply(edit); }))
            ++count;
        return count;
    }
    float at(std::size_t column, std::int64_t frame) const { return memory.table().at(column, frame); }

    LaneMemory memory;
    LaneTable copy;
    EditRing ring;
    WireLaneValues host = defaultRow();
};
} // namespace

TEST_CASE("a host that plays what is remembered changes nothing")
{
    MemoryRig rig;
    for (std::int64_t frame = 100; frame < 150; ++frame)
        CHECK_FALSE(rig.follow(frame));
    CHECK(rig.apply() == 0);
    CHECK(rig.memory.table().revision() == 0);
}

TEST_CASE("a value that departs holds to the end of the pass, and is one edit")
{
    MemoryRig rig;
    rig.host[kDenoise] = 0.25f;
    CHECK(rig.follow(110));
    CHECK_FALSE(rig.follow(111));
    CHECK(rig.at(kDenoise, 109) == defaultRow()[kDenoise]);
    CHECK(rig.at(kDenoise, 110) == 0.25f);
    CHECK(rig.at(kDenoise, 149) == 0.25f);
    CHECK(rig.at(kVelocity, 149) == defaultRow()[kVelocity]);
    LaneEdit edit;
    REQUIRE(rig.ring.tryPop([&](const LaneEdit& slot) { edit = slot; }));
    CHECK(edit.column == static_cast<std::int32_t>(kDenoise));
    CHECK(edit.first == 110);
    CHECK(edit.end == 150);
    CHECK(edit.value == 0.25f);
    CHECK_FALSE(edit.isDrawn);
    CHECK(edit.revision == 1);
    CHECK(rig.ring.size() == 0);
    CHECK(rig.follow(100)); // the next pass begins with the knob where it was left
    CHECK(rig.at(kDenoise, 100) == 0.25f);
}

TEST_CASE("a drawn lane ignores the host until the host's value changes")
{
    MemoryRig rig;
    rig.host[kDenoise] = 0.4f;
    rig.draw(kDenoise, 110, {0.1f, 0.1f, 0.2f});
    CHECK(rig.memory.table().isDrawn(kDenoise));
    CHECK_FALSE(rig.follow(105));
    CHECK_FALSE(rig.follow(110));
    CHECK(rig.at(kDenoise, 110) == 0.1f);
    CHECK(rig.at(kDenoise, 112) == 0.2f);
    CHECK(rig.at(kDenoise, 113) == defaultRow()[kDenoise]);
    CHECK(rig.apply() == 2); // equal neighbours are one edit
    rig.host[kDenoise] = 0.9f;
    CHECK(rig.follow(111));
    CHECK_FALSE(rig.memory.table().isDrawn(kDenoise));
    CHECK(rig.at(kDenoise, 110) == 0.1f);
    CHECK(rig.at(kDenoise, 111) == 0.9f);
    rig.apply();
    CHECK(sameLanes(rig.copy, rig.memory.table()));
}

TEST_CASE("a lane that is given back to the host, or touched by it without a difference, is told to the copy")
{
    MemoryRig rig;
    rig.draw(kDenoise, 100, std::vector<float>(50, 0.75f));
    rig.apply();
    CHECK(rig.copy.isDrawn(kDenoise));
    rig.host[kDenoise] = 0.75f; // what is drawn
    CHECK_FALSE(rig.follow(120));
    rig.apply();
    CHECK_FALSE(rig.copy.isDrawn(kDenoise));
    CHECK(rig.copy.at(kDenoise, 120) == 0.75f);

    rig.draw(kVelocity, 100, {0.5f});
    rig.draw(kVelocity, 100, {});
    CHECK_FALSE(rig.memory.table().isDrawn(kVelocity));
    CHECK(rig.at(kVelocity, 100) == defaultRow()[kVelocity]);
    CHECK_FALSE(rig.follow(100));
    rig.apply();
    CHECK(sameLanes(rig.copy, rig.memory.table()));
}

TEST_CASE("what is erased has the host's record again, frame by frame, and stays drawn around it")
{
    MemoryRig rig;
    for (std::int64_t frame = 100; frame < 120; ++frame) // the host's automation, recorded
    {
        rig.host[kDenoise] = frame < 110 ? 0.3f : 0.4f;
        rig.follow(frame);
    }
    rig.host[kDenoise] = 0.4f;
    rig.draw(kDenoise, 105, std::vector<float>(20, 0.9f));
    CHECK(rig.at(kDenoise, 108) == 0.9f);
    rig.draw(kDenoise, 108, {NAN, NAN, NAN, 0.8f}); // as an undone stroke over an older one
    const float expected[] = {0.3f, 0.3f, 0.3f, 0.9f, 0.9f, 0.9f, 0.3f, 0.3f, 0.4f, 0.8f, 0.9f};
    for (std::int64_t i = 0; i < 11; ++i)
        CHECK(rig.at(kDenoise, 102 + i) == expected[i]);
    CHECK(rig.memory.table().isDrawn(kDenoise));
    rig.apply();
    CHECK(sameLanes(rig.copy, rig.memory.table()));

    rig.draw(kDenoise, 100, {}); // all of it
    for (std::int64_t frame = 100; frame < 150; ++frame)
    {
        rig.host[kDenoise] = frame < 110 ? 0.3f : 0.4f;
        CHECK_FALSE(rig.follow(frame)); // the automation as recorded
    }
    rig.apply();
    CHECK(sameLanes(rig.copy, rig.memory.table()));
    CHECK_FALSE(rig.copy.isDrawn(kDenoise));

    rig.draw(kDenoise, 100, {NAN, NAN}); // nothing was drawn there
    CHECK_FALSE(rig.memory.table().isDrawn(kDenoise));
    CHECK(rig.apply() == 0);
}

TEST_CASE("the drawn lanes of a restored table wait for the host's first change")
{
    LaneTable table = defaultTable(0, 30);
    LaneEdit drawn;
    drawn.column = kDenoise;
    drawn.end = 30;
    drawn.value = 0.125f;
    drawn.isDrawn = true;
    table.apply(drawn);
    LaneMemory memory(table);
    WireLaneValues host = defaultRow();
    host[kDenoise] = 0.9f; // whatever the parameter was restored to
    const auto send = [](const LaneEdit&) { return true; };
    CHECK_FALSE(memory.follow(0, host, send));
    CHECK_FALSE(memory.follow(1, host, send));
    CHECK(memory.table().at(kDenoise, 1) == 0.125f);
    host[kDenoise] = 0.8f;
    CHECK(memory.follow(2, host, send));
    CHECK(memory.table().at(kDenoise, 2) == 0.8f);
}

TEST_CASE("drawings beyond the clip and of unknown lanes do no harm")
{
    MemoryRig rig;
    rig.draw(kDenoise, 98, {0.1f, 0.2f, 0.3f});
    rig.draw(kDenoise, 149, {0.4f, 0.5f});
    rig.draw(kDenoise, 1000, {0.6f});
    rig.draw(kWireLaneCount, 110, {0.7f});
    CHECK(rig.at(kDenoise, 100) == 0.3f);
    CHECK(rig.at(kDenoise, 149) == 0.4f);
    rig.apply();
    CHECK(sameLanes(rig.copy, rig.memory.table()));
}

TEST_CASE("edits that find no room are sent later, as they are by then, a bounded number at a time")
{
    MemoryRig rig(100, 50, 1);
    for (std::int64_t frame = 100; frame < 150; ++frame)
    {
        rig.host[kDenoise] = 0.01f * static_cast<float>(frame - 100);
        rig.host[kVelocity] = 0.02f * static_cast<float>(frame - 100);
        rig.follow(frame);
    }
    CHECK(rig.memory.hasWaiting());
    CHECK_FALSE(rig.memory.flush(1000, rig.send()));
    CHECK(rig.ring.size() == 1);
    int passes = 0;
    for (; rig.memory.hasWaiting() && passes < 1000; ++passes)
    {
        rig.memory.flush(1000, rig.send());
        CHECK(rig.apply() <= 1);
    }
    CHECK(passes > 50);
    CHECK(passes < 110);
    CHECK(sameLanes(rig.copy, rig.memory.table()));

    MemoryRig wide(100, 50, 10);
    wide.host.fill(0.5f);
    wide.follow(100); // 39 lanes and room for 10 edits
    wide.apply();
    CHECK_FALSE(wide.memory.flush(5, wide.send()));
    CHECK(wide.ring.size() == 5);
}

TEST_CASE("whatever happens, in whatever room, the copy becomes the same table")
{
    for (unsigned seed = 0; seed < 200; ++seed)
    {
        INFO("seed " << seed);
        std::mt19937 random(seed);
        MemoryRig rig(-20, 60, 1 + seed % 17);
        const auto pick = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
        std::int64_t frame = -20;
        for (int step = 0; step < 300; ++step)
        {
            switch (pick(6))
            {
            case 0:
                rig.host[pick(kWireLaneCount)] = 0.1f * static_cast<float>(pick(4));
                break;
            case 1:
            {
                std::vector<float> values(pick(LaneDrawing::kMostFrames + 1));
                for (float& value : values)
                    value = pick(4) == 0 ? NAN : 0.1f * static_cast<float>(pick(3));
                rig.draw(pick(kWireLaneCount), -30 + static_cast<std::int64_t>(pick(80)), values);
                break;
            }
            case 2:
                rig.memory.flush(pick(10), rig.send());
                break;
            case 3:
                rig.apply();
                break;
            default:
                rig.follow(frame);
                frame = frame == 39 ? -20 : frame + 1;
            }
        }
        while (!rig.memory.flush(7, rig.send()))
            rig.apply();
        rig.apply();
        REQUIRE(sameLanes(rig.copy, rig.memory.table()));
        REQUIRE(rig.copy.revision() == rig.memory.table().revision());
    }
}

TEST_CASE("a capture records the host's lanes, and the loop follows and latches them")
{
    Rig rig;
    auto clip = rig.arm();
    for (int frame = 0; frame < 40; ++frame)
    {
        rig.controls.lanes[lane::denoise] = frame < 20 ? 0.25f : 0.5f;
        rig.playConstant(0.0f, kFrame);
    }
    for (int pass = 0; pass < 2; ++pass)
    {
        rig.locate(0);
        for (int frame = 0; frame < 40; ++frame)
        {
            rig.controls.lanes[lane::denoise] = frame < 20 ? 0.25f : 0.5f;
            rig.playConstant(0.0f, kFrame);
        }
        CHECK(rig.loop.signs.revision == 0); // as recorded
    }
    REQUIRE(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));
    CHECK(clip->memory.table().at(0, 19) == 0.25f);
    CHECK(clip->memory.table().at(0, 20) == 0.5f);

    rig.locate(10 * kFrame + 5);
    rig.controls.lanes[lane::denoise] = 0.75f;
    rig.playConstant(0.0f, kFrame);
    CHECK(rig.loop.signs.revision == 1);
    CHECK(clip->memory.table().at(0, 9) == 0.25f);
    CHECK(clip->memory.table().at(0, 10) == 0.75f);
    CHECK(clip->memory.table().at(0, 39) == 0.75f);
    CHECK(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));
}

TEST_CASE("in a loop any block size that knows the frames gives the same lanes")
{
    std::optional<LaneTable> reference;
    for (const std::size_t size : {1, 64, 160, 320})
    {
        Rig rig;
        rig.give(0, 40);
        for (int frame = 0; frame < 60; ++frame)
        {
            rig.controls.lanes[lane::denoise] = 0.01f * static_cast<float>(frame / 7);
            rig.playConstant(0.0f, kFrame, size);
        }
        if (!reference)
            reference = rig.mirrors.at(1).lanes;
        CHECK(sameLanes(rig.mirrors.at(1).lanes, *reference));
        CHECK(rig.mirrors.at(1).lanes.at(0, 39) == 0.01f * 5);
    }
}

TEST_CASE("drawings reach the clip that they were made on, and wait while another is captured")
{
    Rig rig;
    auto clip = rig.give(0, 40);
    rig.playConstant(0.0f, 64);
    LaneDrawing drawing;
    drawing.epoch = 1;
    drawing.first = 5;
    drawing.count = 3;
    drawing.values = {0.1f, 0.2f, 0.3f};
    CHECK(rig.loop.draw(drawing));
    drawing.epoch = 99;
    drawing.values = {0.9f, 0.9f, 0.9f};
    CHECK(rig.loop.draw(drawing));
    rig.playConstant(0.0f, 64);
    CHECK(rig.mirrors.at(1).lanes.at(0, 6) == 0.2f);
    CHECK(rig.mirrors.at(1).lanes.isDrawn(0));

    auto captured = rig.arm();
    rig.playConstant(0.0f, 30 * kFrame);
    drawing.epoch = 2;
    CHECK(rig.loop.draw(drawing));
    rig.playConstant(0.0f, 64);
    CHECK(captured->memory.table().at(0, 6) != 0.9f);
    rig.stop();
    CHECK(captured->memory.table().at(0, 6) == 0.9f);
    CHECK(sameLanes(captured->memory.table(), rig.mirrors.at(2).lanes));
    while (rig.loop.draw(drawing)) // a full ring refuses and says so
    {
    }
}

TEST_CASE("in a loop no edit is lost while the link thread sleeps")
{
    Rig rig;
    auto clip = rig.give(0, 200);
    rig.serves = false;
    std::mt19937 random(3);
    for (int frame = 0; frame < 200; ++frame)
    {
        for (float& value : rig.controls.lanes)
            value = 0.25f * static_cast<float>(random() % 4);
        rig.playConstant(0.0f, kFrame, kFrame);
    }
    CHECK(rig.loop.feed.edits.size() == LoopFeed::kRingEdits);
    CHECK_FALSE(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));
    rig.transport.playing = false;
    for (int pass = 0; pass < 100; ++pass)
    {
        rig.serve();
        rig.block(Signal(32, 0.0f));
    }
    rig.serve();
    CHECK(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));
}

TEST_CASE("the copy follows while both threads run")
{
    Rig rig;
    rig.serves = false;
    auto clip = rig.arm(60);
    std::atomic<bool> stops{false};
    std::thread link(
        [&]
        {
            while (!stops)
                rig.serve();
        });
    std::mt19937 random(4);
    for (int block = 0; block < 3000; ++block)
    {
        rig.controls.lanes[random() % kLaneCount] = 0.25f * static_cast<float>(random() % 4);
        rig.block(Signal(200, 0.0f));
        if (rig.transport.sample >= 60 * kFrame)
            rig.locate(0);
    }
    rig.transport.playing = false;
    CHECK(eventually(
        [&]
        {
            rig.block(Signal(32, 0.0f));
            return !clip->memory.hasWaiting();
        }));
    stops = true;
    link.join();
    rig.serve();
    CHECK(sameLanes(clip->memory.table(), rig.mirrors.at(1).lanes));
    CHECK(rig.mirrors.at(1).lanes.revision() > 100);
}
