// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "ProbeLog.h"
#include "TrackClient.h"
#include "core/Stream.h"

namespace demon
{
/// The connection of one plugin instance to the engine: a thread that owns the ZeroMQ context and socket, and moves
/// frames between them and the stream's rings.
///
/// Threads: construction, destruction and the setters belong to the message thread; they may allocate and may wait for
/// a mutex that the link thread holds for microseconds. The audio thread meets this class only through the stream's
/// rings, signs() and the probe. The constructor never waits for the network; the destructor takes a few
/// milliseconds.
class EngineLink
{
public:
    EngineLink(std::string endpoint, std::string clientName, const Config& config);
    ~EngineLink();
    EngineLink(const EngineLink&) = delete;
    EngineLink& operator=(const EngineLink&) = delete;

    /// Serves `next` from now on; the link keeps it alive as long as it uses it.
    void attach(std::shared_ptr<Stream> next);

    void setConfig(const Config& config);
    void setEndpoint(const std::string& endpoint);
    std::string endpoint() const;
    void acknowledgeError();
    LinkStatus status() const; ///< at most 20 ms old

    /// What an offline wait goes by. Any thread, wait-free.
    const EngineSigns& signs() const noexcept { return engineSigns; }

    /// Audio thread: where to record blocks, or null.
    ProbeLog* probe() noexcept { return probeLog.get(); }

private:
    class Socket;

    void run();
    void pass(TrackClient& client, Socket& socket);
    void recover(TrackClient& client, Socket& socket, const char* what) noexcept;
    bool exchangeFrames(TrackClient& client, Socket& socket);
    bool receiveAll(TrackClient& client, Socket& socket);
    bool pushWindows(TrackClient& client);
    void takeRequests(TrackClient& client, Socket& socket);
    void publish(const TrackClient& client);
    void publishSigns(const TrackClient& client);

    std::atomic<bool> quit{false};
    EngineSigns engineSigns;
    std::unique_ptr<ProbeLog> probeLog;

    mutable std::mutex mutex; ///< between the message thread and the link thread; guards the next six
    std::string wantedEndpoint;
    bool endpointChanged = false;
    bool errorAcknowledged = false;
    Config wantedConfig;
    std::shared_ptr<Stream> nextStream;
    LinkStatus published;

    const std::string name;
    std::shared_ptr<Stream> stream; ///< link thread
    std::int64_t publishedAt = 0;   ///< link thread
    std::int64_t busyAt = 0;        ///< link thread: when frames passed last
    std::thread thread;
};
} // namespace demon
