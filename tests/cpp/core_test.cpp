// SPDX-License-Identifier: AGPL-3.0-or-later
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "catch.h"
#include "core/DelayLine.h"
#include "core/Handover.h"
#include "core/Ramp.h"
#include "core/SpscRing.h"
#include "core/WetSplice.h"

using namespace demon;

TEST_CASE("what one thread pushes the other pops, complete and in order")
{
    struct Slot
    {
        int number = -1;
        std::array<int, 30> copies{};
    };
    constexpr int kCount = 200000;
    SpscRing<Slot> ring(7);
    std::thread producer(
        [&]
        {
            for (int i = 0; i < kCount;)
                if (ring.tryPush(
                        [&](Slot& slot)
                        {
                            slot.number = i;
                            slot.copies.fill(i);
                        }))
                    ++i;
                else
                    std::this_thread::yield();
        });
    int expected = 0;
    bool intact = true;
    while (expected < kCount)
    {
        const bool popped = ring.tryPop(
            [&](Slot& slot)
            {
                intact = intact && slot.number == expected;
                for (const int copy : slot.copies)
                    intact = intact && copy == expected;
                ++expected;
            });
        if (!popped)
            std::this_thread::yield();
    }
    producer.join();
    CHECK(intact);
    CHECK(ring.size() == 0);
}

TEST_CASE("a ring holds exactly its capacity and its front stays in place")
{
    SpscRing<int> ring(2);
    CHECK(ring.front() == nullptr);
    CHECK(ring.tryPush([](int& slot) { slot = 1; }));
    CHECK(ring.tryPush([](int& slot) { slot = 2; }));
    CHECK_FALSE(ring.tryPush([](int& slot) { slot = 3; }));
    REQUIRE(ring.front() != nullptr);
    CHECK(*ring.front() == 1);
    CHECK(*ring.front() == 1);
    ring.pop();
    CHECK(*ring.front() == 2);
    CHECK(ring.size() == 1);
}

TEST_CASE("what the audio thread has taken, or is inside of, stays alive; the rest goes")
{
    Handover<int> handover;
    CHECK(handover.current() == nullptr);
    std::vector<std::weak_ptr<int>> made;
    const auto make = [&]
    {
        auto next = std::make_shared<int>(static_cast<int>(made.size()));
        made.emplace_back(next);
        return next;
    };
    handover.replace(make());
    CHECK(*handover.current() == 0);
    handover.offer(make());
    int* const taken = handover.take(); // the audio thread is interrupted here
    handover.offer(make());
    handover.offer(make());
    CHECK_FALSE(made[0].expired());
    REQUIRE_FALSE(made[1].expired());
    CHECK(made[2].expired()); // never taken
    handover.enter(taken);
    CHECK(*taken == 1);
    CHECK(*handover.current() == 3);
    handover.offer(make());
    CHECK(made[0].expired());
    CHECK(made[1].expired());
    CHECK_FALSE(made[3].expired());
    CHECK(*handover.current() == 4);
}

TEST_CASE("a delay line gives every sample back after its length, for any chunks")
{
    for (const std::size_t chunk : {1, 7, 64, 100, 101, 1000})
    {
        INFO("chunk " << chunk);
        DelayLine line(100);
        std::vector<float> signal(3000);
        std::iota(signal.begin(), signal.end(), 1.0f);
        const std::vector<float> original = signal;
        for (std::size_t at = 0; at < signal.size(); at += chunk)
            line.exchange(signal.data() + at, std::min(chunk, signal.size() - at));
        for (std::size_t i = 0; i < signal.size(); ++i)
            REQUIRE(signal[i] == (i < 100 ? 0.0f : original[i - 100]));
    }
}

TEST_CASE("a ramp arrives exactly and then stays")
{
    Ramp ramp(10);
    ramp.jumpTo(0.3f);
    CHECK(ramp.next(0.3f) == 0.3f);
    float value = 0.0f;
    for (int i = 0; i < 10; ++i)
    {
        const float next = ramp.next(0.7f);
        CHECK(next > value);
        value = next;
    }
    CHECK(value == 0.7f);
    CHECK(ramp.next(0.7f) == 0.7f);
}

namespace
{
/// Renders stretches of constant signals through a splice, in chunks.
std::vector<float> spliced(const std::vector<std::pair<std::int32_t, bool>>& stretches, std::size_t chunk)
{
    constexpr std::size_t kLength = 320;
    const std::vector<float> window(kLength, 1.0f), replacement(kLength, 0.25f);
    WetSplice splice;
    std::vector<float> result;
    for (const auto& [epoch, hasWindow] : stretches)
        for (std::size_t at = 0; at < kLength; at += chunk)
        {
            const std::size_t count = std::min(chunk, kLength - at);
            std::vector<float> left(count), right(count);
            WetSplice::Source source;
            source.run = epoch;
            if (hasWindow)
                source.window = {window.data(), window.data()};
            source.replacement = {replacement.data(), replacement.data()};
            splice.render(source, {left.data(), right.data()}, count);
            result.insert(result.end(), left.begin(), left.end());
            REQUIRE(left == right);
        }
    return result;
}

float largestStep(const std::vector<float>& signal)
{
    float largest = 0.0f;
    for (std::size_t i = 1; i < signal.size(); ++i)
        largest = std::max(largest, std::abs(signal[i] - signal[i - 1]));
    return largest;
}
} // namespace

TEST_CASE("windows follow each other exactly, also at an epoch's start and change")
{
    for (const float value : spliced({{1, true}, {1, true}, {2, true}}, 64))
        REQUIRE(value == 1.0f);
    const std::vector<float> start = spliced({{0, false}, {1, true}}, 64);
    for (std::size_t i = 320; i < start.size(); ++i)
        REQUIRE(start[i] == 1.0f);
}

TEST_CASE("a late window is replaced and comes back without a click, for any chunks")
{
    const std::vector<float> reference = spliced({{1, true}, {1, false}, {1, true}}, 320);
    CHECK(largestStep(reference) < 0.75f / 100);
    CHECK(reference[320 + 200] == 0.25f); // past the fade the bits are the source's
    CHECK(reference[640 + 200] == 1.0f);
    for (const std::size_t chunk : {1, 5, 64, 129})
        CHECK((spliced({{1, true}, {1, false}, {1, true}}, chunk) == reference));
}
