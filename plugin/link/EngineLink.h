// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "PlayerPort.h"
#include "ProbeLog.h"
#include "TrackClient.h"

namespace demon
{
class EngineSocket;

/// The connection of one plugin instance to the engine: a thread that owns the ZeroMQ socket, and moves frames between
/// it and the player's rings.
///
/// Threads: construction, destruction and the setters belong to the message thread; they may allocate and may wait for
/// a mutex that the link thread holds for microseconds. The audio thread meets this class only through the stream's
/// rings, signs() and the probe. The constructor never waits for the network; the destructor takes a few
/// milliseconds.
class EngineLink
{
public:
    /// `renders`, which must outlive the link, records what the engine makes; or null.
    EngineLink(std::string endpoint, std::string clientName, const Config& config, RenderRecorder* renders = nullptr);
    ~EngineLink();
    EngineLink(const EngineLink&) = delete;
    EngineLink& operator=(const EngineLink&) = delete;

    /// Serves `next` from now on, and what it keeps of the clip before is gone; the link keeps the player alive as long
    /// as it uses it. An empty port needs no engine: the connection ends.
    void attach(PlayerPort next);

    /// Feeds the engine with a clip that was not captured here. After attach, and after the clip was offered to the
    /// Loop, as SPEC.md's epochs must increase: in the order of their numbers.
    void openClip(std::int32_t epoch, std::shared_ptr<const ClipAudio> source, LaneTable lanes);

    /// Ends the epoch of a clip that the Loop never took.
    void closeClip(std::int32_t epoch);

    /// The newest clip with a copy of its lanes as they are now; without a source when there is none. At most 20 ms
    /// old.
    ClipSource clip() const;

    /// The audio of the references that a configuration may name. Before the configuration that does.
    void setReferences(std::vector<std::shared_ptr<const ReferenceAudio>> known);

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
    void run();
    void pass(TrackClient& client, EngineSocket& socket);
    static void shutOut(TrackClient& client, EngineSocket& socket, std::string text);
    void recover(TrackClient& client, EngineSocket& socket, const char* what) noexcept;
    bool exchangeFrames(TrackClient& client, EngineSocket& socket);
    void connect(TrackClient& client, EngineSocket& socket, const std::string& home);
    bool receiveAll(TrackClient& client, EngineSocket& socket);
    bool pushWindows(TrackClient& client);
    void takeRequests(TrackClient& client, EngineSocket& socket);
    void publish(const TrackClient& client);
    void publishClip(const TrackClient& client);
    void publishSigns(const TrackClient& client);

    std::atomic<bool> quit{false};
    EngineSigns engineSigns;
    std::unique_ptr<ProbeLog> probeLog;

    mutable std::mutex mutex; ///< between the message thread and the link thread; guards the next ten
    std::string wantedEndpoint;
    bool endpointChanged = false;
    bool errorAcknowledged = false;
    Config wantedConfig;
    std::optional<PlayerPort> nextPlayer;
    std::vector<ClipSource> nextClips; ///< without a source: to be closed
    std::vector<std::shared_ptr<const ReferenceAudio>> knownReferences;
    LinkStatus published;
    ClipSource publishedClip;         ///< its lanes: a copy, for whoever asks
    std::int64_t publishedEdits = -1; ///< what the copy follows

    const std::string name;
    RenderRecorder* const recorder;
    PlayerPort player;                ///< link thread
    std::int64_t publishedAt = 0;     ///< link thread
    std::int64_t clipPublishedAt = 0; ///< link thread
    std::int64_t busyAt = 0;          ///< link thread: when frames passed last
    std::thread thread;
};
} // namespace demon
