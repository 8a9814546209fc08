// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "RealtimeCall.h"
#include "catch.h"
#include "link/EngineLink.h"

namespace stream_track
{
using namespace demon;

inline constexpr int kRate = 8000;
inline constexpr int kFrame = 320;
inline constexpr int kLatencyFrames = 10;
inline constexpr std::size_t kLatency = kLatencyFrames * kFrame;

/// A stream and its link: what the processor does, without a host.
struct Track
{
    Telemetry telemetry;
    EpochNumbers epochs;
    std::shared_ptr<Stream> stream = std::make_shared<Stream>(kRate, kLatencyFrames, epochs, telemetry);
    EngineLink link;
    Transport transport;
    std::vector<float> input, output;

    explicit Track(const std::string& endpoint, bool offline = true) : link(endpoint, "test", Config())
    {
        transport.offline = offline;
        transport.hasPosition = transport.playing = true;
        link.attach(PlayerPort(stream));
    }

    void play(int blocks, int size = 500)
    {
        Controls controls;
        for (std::size_t i = 0; i < kLaneCount; ++i)
            controls.lanes[i] = kLanes[i].defaultValue;
        for (int block = 0; block < blocks; ++block)
        {
            std::vector<float> left(static_cast<std::size_t>(size));
            for (float& value : left)
                value = values(random);
            input.insert(input.end(), left.begin(), left.end());
            std::vector<float> right = left;
            if (transport.offline)
            {
                OfflineWait waiter(link.signs(), 15'000'000'000);
                stream->process({left.data(), right.data()}, size, transport, controls, waiter);
            }
            else
            {
                processInRealTime(*stream, {left.data(), right.data()}, size, transport, controls);
            }
            transport.sample += size;
            REQUIRE(left == right);
            output.insert(output.end(), left.begin(), left.end());
        }
    }
    /// True when the whole output is the negative of the input, a latency later.
    bool isAllWet() const
    {
        for (std::size_t i = 0; i < output.size(); ++i)
            if (output[i] != (i < kLatency ? 0.0f : -input[i - kLatency]))
                return false;
        return true;
    }

    std::mt19937 random{1};
    std::uniform_real_distribution<float> values{-1.0f, 1.0f};
};
} // namespace stream_track
