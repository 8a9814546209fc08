// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#include "RealtimeCall.h"
#include "Signals.h"
#include "catch.h"
#include "core/Stream.h"

/// A stream without a network: the test plays host and link thread.
namespace stream_rig
{
using namespace demon;
using namespace signals;

inline constexpr int kLatencyFrames = 5;
inline constexpr std::size_t kLatency = kLatencyFrames * kFrame;

struct CollectedFrame
{
    std::int32_t epoch;
    std::int64_t frame;
    std::vector<float> audio;
    float denoise;
    bool operator==(const CollectedFrame& o) const
    {
        return epoch == o.epoch && frame == o.frame && audio == o.audio && denoise == o.denoise;
    }
};

/// A stream, its input, and an engine that answers every frame with its negative.
struct Rig
{
    Telemetry telemetry;
    EpochNumbers epochs;
    Stream stream{kRate, kLatencyFrames, epochs, telemetry};
    Controls controls = defaultControls();
    Transport transport;
    bool answers = true;
    std::vector<CollectedFrame> frames;
    std::vector<FeedItem> others; ///< begin, end, drop

    Rig() { transport.hasPosition = transport.playing = true; }

    void serve()
    {
        while (stream.feedRing.tryPop([this](const FeedItem& item) { take(item); }))
        {
        }
    }
    void take(const FeedItem& item)
    {
        if (item.kind != FeedItem::Kind::frame)
            return others.push_back(item);
        frames.push_back({item.epoch, item.frame, item.audio, item.lanes[lane::denoise]});
        if (!answers)
            return;
        const auto fill = [&](WetFrame& wet)
        {
            wet.epoch = item.epoch;
            wet.frame = item.frame;
            std::transform(item.audio.begin(), item.audio.end(), wet.audio.begin(), std::negate<float>());
        };
        REQUIRE(stream.wetRing.tryPush(fill));
    }
    /// Plays `count` samples of `left` from `at` on; the right channel is half of it. Returns the left output.
    Signal play(const Signal& left, std::size_t at, std::size_t count)
    {
        Signal l(left.begin() + static_cast<std::ptrdiff_t>(at),
                 left.begin() + static_cast<std::ptrdiff_t>(at + count));
        Signal r = l;
        for (float& value : r)
            value *= 0.5f;
        processInRealTime(stream, {l.data(), r.data()}, static_cast<int>(count), transport, controls);
        transport.sample += static_cast<std::int64_t>(count);
        serve();
        return l;
    }
    Signal playAll(const Signal& left, std::size_t block)
    {
        Signal out;
        for (std::size_t at = 0; at < left.size(); at += block)
        {
            const Signal part = play(left, at, std::min(block, left.size() - at));
            out.insert(out.end(), part.begin(), part.end());
        }
        return out;
    }
};

// A block longer than the latency less a frame would need its windows before this test answers.
inline const std::vector<std::size_t> kBlocks{1, 17, 64, 256, 320, 333, 480, 1024, 1280};

inline Signal delayed(const Signal& signal, float factor = 1.0f)
{
    Signal result(signal.size(), 0.0f);
    for (std::size_t i = kLatency; i < signal.size(); ++i)
        result[i] = factor * signal[i - kLatency];
    return result;
}
} // namespace stream_rig
