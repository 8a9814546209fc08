// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "RealtimeCall.h"
#include "Signals.h"
#include "catch.h"
#include "core/Loop.h"

/// A loop without a network: the test plays host, message thread and link thread.
namespace loop_rig
{
using namespace demon;
using namespace signals;

inline WireLaneValues defaultRow() { return wireLanesOf(defaultControls().lanes); }

/// A table of `frames` frames from `first` on with every lane at its default.
inline LaneTable defaultTable(std::int64_t first, std::int64_t frames)
{
    LaneTable table(frames);
    table.begin(first);
    for (std::int64_t i = 0; i < frames; ++i)
        table.append(defaultRow());
    return table;
}

inline bool sameLanes(const LaneTable& a, const LaneTable& b)
{
    if (a.firstFrame() != b.firstFrame() || a.frames() != b.frames())
        return false;
    for (std::size_t column = 0; column < kWireLaneCount; ++column)
    {
        if (a.isDrawn(column) != b.isDrawn(column))
            return false;
        for (std::int64_t frame = a.firstFrame(); frame < a.end(); ++frame)
            if (a.at(column, frame) != b.at(column, frame) ||
                a.recordedAt(column, frame) != b.recordedAt(column, frame))
                return false;
    }
    return true;
}

/// What the link thread knows of a loop epoch.
struct Mirror
{
    std::int64_t start = 0; ///< sample
    bool offline = false;
    std::vector<std::pair<std::int64_t, Signal>> frames;
    LaneTable lanes;
    bool isEnded = false;
};

struct Commit
{
    std::int32_t epoch = 0, of = 0;
    LaneTable lanes; ///< as they were when it was asked for
};

struct Rig
{
    explicit Rig(int rate = kRate) : loop(rate, epochs, telemetry) { transport.hasPosition = transport.playing = true; }

    Telemetry telemetry;
    EpochNumbers epochs;
    Loop loop;
    Controls controls = defaultControls();
    Transport transport;
    EngineSigns engineSigns;
    std::int64_t timeout = 50'000'000;
    std::map<std::int32_t, Mirror> mirrors;
    std::vector<Commit> commits;
    std::vector<std::int32_t> released;
    bool serves = true; ///< the link thread works after each block

    std::size_t frameLength() const { return static_cast<std::size_t>(loop.grid.length); }

    // --- the link thread ---

    void serve()
    {
        loop.feed.take([this](FeedItem& item) { take(item); },
                       [this](const LaneEdit& edit) { mirrors.at(edit.epoch).lanes.apply(edit); });
        loop.spent.freeAll();
    }

    void take(const FeedItem& item)
    {
        switch (item.kind)
        {
        case FeedItem::Kind::begin:
        {
            REQUIRE(item.loop);
            Mirror& mirror = mirrors[item.epoch];
            mirror.start = item.start;
            mirror.offline = item.offline;
            mirror.lanes = LaneTable(10000);
            mirror.lanes.begin(loop.grid.frameOf(item.start));
            break;
        }
        case FeedItem::Kind::frame:
            mirrors.at(item.epoch).frames.emplace_back(item.frame, item.audio);
            mirrors.at(item.epoch).lanes.append(item.lanes);
            break;
        case FeedItem::Kind::end:
            mirrors.at(item.epoch).isEnded = true;
            REQUIRE(item.frame == mirrors.at(item.epoch).lanes.end());
            break;
        case FeedItem::Kind::release:
            released.push_back(item.epoch);
            break;
        case FeedItem::Kind::commit:
            commits.push_back({item.epoch, item.of, mirrors.at(item.of).lanes});
            break;
        case FeedItem::Kind::drop:
            FAIL("a loop drops nothing");
        }
    }

    /// A window of `value(sample of the timeline)`, the right channel its half. False when there is no room.
    template <class Value> bool send(std::int32_t epoch, std::int64_t frame, std::int32_t take, const Value& value)
    {
        Signal audio(2 * frameLength());
        for (std::size_t i = 0; i < frameLength(); ++i)
        {
            audio[i] = value(loop.grid.firstSampleOf(frame) + static_cast<std::int64_t>(i));
            audio[frameLength() + i] = 0.5f * audio[i];
        }
        return loop.wetRing.tryPush(
            [&](WetFrame& slot)
            {
                slot.epoch = epoch;
                slot.frame = frame;
                slot.take = take;
                slot.audio.swap(audio);
            });
    }

    /// Windows of a constant for [first, end).
    void sendAll(std::int32_t epoch, std::int64_t first, std::int64_t end, std::int32_t take, float value)
    {
        for (std::int64_t frame = first; frame < end; ++frame)
            REQUIRE(send(epoch, frame, take, [value](std::int64_t) { return value; }));
    }

    // --- the host ---

    void locate(std::int64_t sample) { transport.sample = sample; }

    /// One block in place; the right channel is half of the left one. Returns the left output.
    Signal block(Signal left)
    {
        Signal right = left;
        for (float& value : right)
            value *= 0.5f;
        const std::array<float*, 2> audio{left.data(), right.data()};
        const int count = static_cast<int>(left.size());
        if (transport.offline)
        {
            OfflineWait waiter(engineSigns, timeout);
            loop.process(audio, count, transport, controls, waiter);
        }
        else
        {
            processInRealTime(loop, audio, count, transport, controls);
        }
        if (transport.playing)
            transport.sample += count;
        if (serves)
            serve();
        lastRight = right;
        return left;
    }

    Signal play(const Signal& input, std::size_t blockSize)
    {
        Signal out;
        for (std::size_t at = 0; at < input.size(); at += blockSize)
        {
            const auto from = input.begin() + static_cast<std::ptrdiff_t>(at);
            const Signal part =
                block(Signal(from, from + static_cast<std::ptrdiff_t>(std::min(blockSize, input.size() - at))));
            out.insert(out.end(), part.begin(), part.end());
        }
        return out;
    }

    Signal playConstant(float value, std::size_t count, std::size_t blockSize = 160)
    {
        return play(Signal(count, value), blockSize);
    }

    void stop()
    {
        transport.playing = false;
        block(Signal(64, 0.0f));
        transport.playing = true;
    }

    // --- the user ---

    std::shared_ptr<LoopClip> arm(std::int64_t mostFrames = 200)
    {
        auto clip = LoopClip::toCapture(mostFrames);
        loop.offer(clip);
        return clip;
    }

    /// A clip from outside, [first, first + frames), with default lanes.
    std::shared_ptr<LoopClip> give(std::int64_t first, std::int64_t frames)
    {
        return give(defaultTable(first, frames));
    }
    std::shared_ptr<LoopClip> give(LaneTable lanes)
    {
        const std::int32_t epoch = epochs.next();
        mirrors[epoch].lanes = lanes;
        auto clip = LoopClip::given(epoch, std::move(lanes));
        loop.offer(clip);
        return clip;
    }

    LoopState state() const { return loop.signs.state; }
    CaptureEnd captureEnd() const { return loop.signs.captureEnd; }

    Signal lastRight;
};

inline float largestStep(const Signal& signal)
{
    float largest = 0.0f;
    for (std::size_t i = 1; i < signal.size(); ++i)
        largest = std::max(largest, std::abs(signal[i] - signal[i - 1]));
    return largest;
}

inline const std::vector<std::size_t> kBlocks{1, 7, 64, 480, 1920, 4096};

/// Block sizes, different each time.
class RandomBlocks
{
public:
    explicit RandomBlocks(unsigned seed) : random(seed) {}
    std::size_t next(std::size_t most) { return std::min(most, sizes(random)); }

private:
    std::mt19937 random;
    std::uniform_int_distribution<std::size_t> sizes{1, 2000};
};
} // namespace loop_rig
