// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "FakeEngine.h"
#include "HostedPlugin.h"
#include "catch.h"

/// What is particular to our plugin. With other plugins, leave out the cases tagged [engine].
namespace host
{
constexpr const char* kNobody = "tcp://127.0.0.1:9";

enum class Mode
{
    stream,
    loop ///< captures the first run over the timeline
};

/// Where instances made from now on look for the engine, and the latency and the mode that they start with.
inline void useEngine(const std::string& endpoint, const char* latencySeconds = "1", Mode mode = Mode::stream)
{
    setenv("DEMON_ENDPOINT", endpoint.c_str(), 1);
    setenv("DEMON_LATENCY_S", latencySeconds, 1);
    setenv("DEMON_TIMEOUT_S", "10", 1);
    setenv("DEMON_MODE", mode == Mode::loop ? "loop" : "stream", 1);
    setenv("DEMON_CAPTURE", mode == Mode::loop ? "1" : "", 1); // empty is unset
}

/// Lets messages pass until `condition` holds, as a DAW's main thread does; false when it still does not after 30 s.
template <class Condition> bool passMessagesUntil(const Condition& condition)
{
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30); !condition();)
    {
        if (std::chrono::steady_clock::now() > until)
            return false;
        passMessages(5);
    }
    return true;
}

/// So many instances have found the engine, and have not been told since to look for it again.
inline bool hasBeenFound(const FakeEngine& engine, int instances = 1)
{
    int settled = 0;
    return passMessagesUntil([&] { return (settled = engine.found == instances ? settled + 1 : 0) > 10; });
}

/// The first sample at which `output` is not `factor` times the `input` of `latency` samples ago, silence before it; -1
/// when there is none.
inline int firstDifference(const Audio& output, const Audio& input, int latency, float factor = 1.0f, int from = 0)
{
    for (int i = from; i < output.getNumSamples(); ++i)
        for (int channel = 0; channel < output.getNumChannels(); ++channel)
        {
            const float expected = i < latency ? 0.0f : factor * input.getSample(channel, i - latency);
            if (output.getSample(channel, i) != expected)
                return i;
        }
    return -1;
}

/// Holds a host's thread to the speed of its sound card: to be called after every block.
class Clock
{
public:
    /// `speed` 1 is real time; a host that prefetches is faster.
    explicit Clock(const Transport& hostTransport, double speed = 1.0) : transport(hostTransport), factor(speed) {}

    void wait(int samples)
    {
        played += samples;
        std::this_thread::sleep_until(
            begun + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                        std::chrono::duration<double>(static_cast<double>(played) / transport.rate / factor)));
    }

private:
    const Transport& transport;
    const double factor;
    std::int64_t played = 0;
    const std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
};

/// Plays noise on a thread of its own, as a DAW does, until it is destroyed.
class Player
{
public:
    explicit Player(HostedPlugin& playedPlugin, int blockSize = 256, double speed = 1.0)
        : plugin(playedPlugin), size(blockSize), thread([this, speed] { run(speed); })
    {
    }
    ~Player() { stop(); }
    void stop()
    {
        quit = true;
        if (thread.joinable())
            thread.join();
    }
    bool wasFinite() const { return finite; }
    int blocks() const { return count; }

private:
    void run(double speed)
    {
        Clock clock(plugin.transport, speed);
        for (const Audio input = noise(size); !quit; ++count)
        {
            if (!isFinite(plugin.play(input, {size})))
                finite = false;
            clock.wait(size);
        }
    }

    HostedPlugin& plugin;
    const int size;
    std::atomic<bool> quit{false}, finite{true};
    std::atomic<int> count{0};
    std::thread thread; ///< last: it uses the others
};
} // namespace host
