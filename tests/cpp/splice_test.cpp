// SPDX-License-Identifier: AGPL-3.0-or-later
// Takes in the splice and in the cache.
#include "core/ClipCache.h"
#include "core/WetSplice.h"

#include "LoopRig.h"

using namespace demon;
using namespace loop_rig;

namespace
{
constexpr int kFade = 80;

/// A stretch of constants: what sounds, and what the take before had there.
struct Stretch
{
    std::int32_t take = 1;
    float value = 0.0f;
    std::int32_t beforeTake = 0; ///< 0: not at hand
    float before = 0.0f;
    std::size_t length = 320;
};

Signal spliced(const std::vector<Stretch>& stretches, std::size_t chunk)
{
    WetSplice splice(kFade);
    Signal result;
    const Signal replacement(320, 0.0f);
    for (const Stretch& stretch : stretches)
    {
        const Signal window(stretch.length, stretch.value), before(stretch.length, stretch.before);
        for (std::size_t at = 0; at < stretch.length; at += chunk)
        {
            const std::size_t count = std::min(chunk, stretch.length - at);
            WetSplice::Source source;
            source.run = 1;
            source.take = {1, stretch.take};
            source.window = {window.data(), window.data()};
            source.beforeTake = {1, stretch.beforeTake};
            if (stretch.beforeTake != 0)
                source.before = {before.data(), before.data()};
            source.replacement = {replacement.data(), replacement.data()};
            Signal left(count), right(count);
            splice.render(source, {left.data(), right.data()}, count);
            REQUIRE(left == right);
            result.insert(result.end(), left.begin(), left.end());
        }
    }
    return result;
}
} // namespace

TEST_CASE("one take fades into another by a straight line, for any chunks")
{
    const std::vector<Stretch> stretches{{1, 0.5f}, {2, -0.5f, 1, 0.5f}};
    const Signal reference = spliced(stretches, 320);
    for (int i = 0; i < kFade; ++i)
        CHECK(reference[static_cast<std::size_t>(320 + i)] == Approx(0.5f - static_cast<float>(i) / kFade));
    for (std::size_t i = 320 + kFade; i < 640; ++i)
        CHECK(reference[i] == -0.5f);
    for (const std::size_t chunk : {1, 7, 64, 100})
        CHECK((spliced(stretches, chunk) == reference));
}

TEST_CASE("without the take before, or with another one, the jump is spread")
{
    for (const std::int32_t at : {0, 7})
    {
        const Signal result = spliced({{1, 0.5f}, {2, -0.5f, at, 100.0f}}, 64);
        CHECK(largestStep(result) < 1.01f / kFade);
        CHECK(result[320] == 0.5f);
        CHECK(result[320 + kFade] == -0.5f);
    }
}

TEST_CASE("a fade that runs out of the take before, or meets a third take, goes on without a jump")
{
    const std::vector<std::vector<Stretch>> cases{
        {{1, 0.5f}, {2, -0.5f, 1, 0.5f, 30}, {2, -0.5f, 0, 0.0f}}, // the next frame lacks it
        {{1, 0.5f}, {2, -0.5f, 1, 0.5f, 30}, {3, 0.9f, 2, -0.5f}}, // a third take meanwhile
        {{1, 0.5f}, {2, -0.5f, 1, 0.5f, 30}, {1, 0.5f, 2, -0.5f}}, // and back
        {{1, 0.5f}, {2, -0.5f, 1, 0.5f, 30}, {2, -0.5f, 1, 0.5f, 10}, {2, -0.5f, 5, 9.0f}}};
    for (const auto& stretches : cases)
    {
        const Signal reference = spliced(stretches, 320);
        CHECK(largestStep(reference) < 1.5f / kFade);
        CHECK(reference.back() == stretches.back().value);
        for (const std::size_t chunk : {1, 7, 64})
            CHECK((spliced(stretches, chunk) == reference));
    }
}

TEST_CASE("a fade goes on across a frame's border as long as the take before is there")
{
    const Signal result = spliced({{1, 0.5f}, {2, -0.5f, 1, 0.5f, 30}, {2, -0.5f, 1, 0.5f}}, 320);
    CHECK((result[320 + 40] == Approx(0.0f).margin(1e-6)));
    CHECK(result[320 + kFade] == -0.5f);
}

namespace
{
struct CacheRig
{
    ClipCache cache{100};
    SpentBuffers spent{200};
    CacheRig() { cache.place(10, 50); }
    /// Puts a frame; returns what comes back.
    float put(std::int64_t frame, std::int32_t take, bool soundsSoon = false)
    {
        Signal audio(2, static_cast<float>(take));
        cache.put(frame, take, audio, soundsSoon, spent);
        return audio.empty() ? 0.0f : audio[0];
    }
};
} // namespace

TEST_CASE("the cache keeps the newest, and the one before only where a fade may need it")
{
    CacheRig rig;
    CHECK(rig.cache.isEmpty());
    for (std::int64_t frame = 10; frame < 60; ++frame)
        CHECK(rig.put(frame, 1) == 0.0f);
    CHECK_FALSE(rig.cache.isEmpty());
    CHECK(rig.put(20, 2) == 0.0f); // the old one is kept: the frame before is of take 1
    CHECK(rig.put(21, 2) == 1.0f); // comes back
    CHECK(rig.put(22, 2) == 1.0f);
    CHECK(rig.put(23, 2, true) == 0.0f); // sounds
    CHECK(rig.cache.at(20).audio[0] == 2.0f);
    CHECK(rig.cache.at(20).take == 2);
    CHECK(rig.cache.at(20).before[0] == 1.0f);
    CHECK(rig.cache.at(20).beforeTake == 1);
    CHECK(rig.cache.at(21).before == nullptr);
    CHECK(rig.cache.at(23).before[0] == 1.0f);

    CHECK(rig.put(19, 3) == 0.0f);
    CHECK(rig.put(20, 3) == 2.0f); // no run starts here any more
    CHECK(rig.cache.at(20).before == nullptr);
    CHECK(rig.spent.freeAll()); // the buffer of take 1

    CHECK(rig.put(10, 1) == 1.0f); // the last frame precedes the first, and is of the same take
    CHECK(rig.put(10, 2) == 0.0f);
}

TEST_CASE("the cache ignores what lies outside, and gives everything back on request")
{
    CacheRig rig;
    for (const std::int64_t frame : {std::int64_t{9}, std::int64_t{60}})
    {
        CHECK(rig.put(frame, 1) == 1.0f);
        CHECK_FALSE(rig.cache.at(frame));
    }
    CHECK(rig.cache.isEmpty());
    for (std::int64_t frame = 10; frame < 60; ++frame)
        rig.put(frame, 1);
    CHECK_FALSE(rig.cache.giveBack(20, rig.spent));
    CHECK_FALSE(rig.cache.at(29));
    CHECK(rig.cache.at(30));
    CHECK_FALSE(rig.cache.giveBack(29, rig.spent));
    CHECK(rig.cache.giveBack(29, rig.spent));
    CHECK_FALSE(rig.cache.at(59));
    CHECK(rig.cache.giveBack(0, rig.spent));
    rig.put(12, 2);
    CHECK_FALSE(rig.cache.giveBack(0, rig.spent)); // what comes later is given back too
    CHECK(rig.cache.giveBack(1, rig.spent));
    CHECK_FALSE(rig.cache.at(12));
}

TEST_CASE("spent buffers that find no room stay where they are")
{
    SpentBuffers spent(1);
    Signal a(3, 1.0f), b(3, 2.0f);
    CHECK(spent.give(a));
    CHECK(a.empty());
    CHECK_FALSE(spent.give(b));
    CHECK(b.size() == 3);
    CHECK(spent.freeAll());
    CHECK_FALSE(spent.freeAll());
    CHECK(spent.give(b));
}
