// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineLink.h"

#include <array>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "EngineSocket.h"
#include "demon/codec.h"
#include "demon/endpoint.h"
#include "services/EngineKeys.h"
#include "services/EngineProbe.h"

namespace demon
{
namespace
{
constexpr std::chrono::milliseconds kBusyPoll{1};  // frames pass: the audio thread cannot wake this one
constexpr std::chrono::milliseconds kIdlePoll{10}; // nothing has passed for a while
constexpr std::int64_t kIdleAfter = 500'000'000;   // nanoseconds
constexpr std::int64_t kPublishInterval = 20'000'000;
constexpr std::int64_t kClipInterval = 200'000'000; // of copies of a table that keeps changing

/// Where the track is, or is about to be: at the endpoint of the user's choice, or where that has sent it.
std::string placeOf(const TrackClient& client, const std::string& home)
{
    return client.redirect() ? redirectedTo(client.redirect()->endpoint, home) : home;
}
} // namespace

EngineLink::EngineLink(std::string endpoint, std::string clientName, const Config& config, RenderRecorder* renders)
    : probeLog(ProbeLog::fromEnvironment()), wantedEndpoint(std::move(endpoint)), wantedConfig(config),
      name(std::move(clientName)), recorder(renders), thread([this] { run(); })
{
}

EngineLink::~EngineLink()
{
    quit = true;
    thread.join();
}

void EngineLink::attach(PlayerPort next)
{
    const std::lock_guard lock(mutex);
    nextPlayer = std::move(next);
    nextClips.clear();
    publishedClip = {};
    engineSigns.hopelessEpoch = 0; // said of another player
}

void EngineLink::openClip(std::int32_t epoch, std::shared_ptr<const ClipAudio> source, LaneTable lanes)
{
    const std::lock_guard lock(mutex);
    nextClips.push_back({epoch, std::move(source), std::make_shared<LaneTable>(std::move(lanes))});
}

void EngineLink::closeClip(std::int32_t epoch)
{
    const std::lock_guard lock(mutex);
    nextClips.push_back({epoch, nullptr, nullptr});
}

ClipSource EngineLink::clip() const
{
    const std::lock_guard lock(mutex);
    return publishedClip;
}

void EngineLink::setReferences(std::vector<std::shared_ptr<const ReferenceAudio>> known)
{
    const std::lock_guard lock(mutex);
    knownReferences = std::move(known);
}

void EngineLink::setConfig(const Config& config)
{
    const std::lock_guard lock(mutex);
    wantedConfig = config;
}

void EngineLink::setEndpoint(const std::string& newEndpoint)
{
    const std::lock_guard lock(mutex);
    if (newEndpoint == wantedEndpoint)
        return;
    wantedEndpoint = newEndpoint;
    endpointChanged = true;
    engineSigns.hopelessEpoch = 0; // said by another engine
}

std::string EngineLink::endpoint() const
{
    const std::lock_guard lock(mutex);
    return wantedEndpoint;
}

void EngineLink::acknowledgeError()
{
    const std::lock_guard lock(mutex);
    errorAcknowledged = true;
    published.errorCode.clear();
    published.errorText.clear();
}

LinkStatus EngineLink::status() const
{
    const std::lock_guard lock(mutex);
    return published;
}

void EngineLink::run()
{
    EngineSocket socket;
    TrackClient client(name, recorder);
    while (!quit)
        try
        {
            pass(client, socket);
        }
        catch (const std::exception& problem)
        {
            recover(client, socket, problem.what());
        }
    try
    {
        socket.sayBye();
    }
    catch (const std::exception&) // the engine will forget the track by itself
    {
    }
}

void EngineLink::pass(TrackClient& client, EngineSocket& socket)
{
    takeRequests(client, socket);
    bool hasMoved = exchangeFrames(client, socket);
    const bool isIdle = steadyNanoseconds() - busyAt > kIdleAfter;
    if (socket.wait(isIdle ? kIdlePoll : kBusyPoll))
        hasMoved = receiveAll(client, socket) || hasMoved;
    if (const std::optional<KeyFault> fault = socket.keyFault())
        shutOut(client, socket, explain(*fault, socket.endpoint()));
    else if (socket.hasDisconnected())
        client.disconnect(steadyNanoseconds());
    else if (socket.hasAudioReturned())
        client.resumeAudio(steadyNanoseconds());
    hasMoved = pushWindows(client) || hasMoved;
    if (hasMoved)
        busyAt = steadyNanoseconds();
    publishSigns(client);
    publish(client);
    if (probeLog != nullptr)
        probeLog->drain(client.status().state == LinkState::ready);
}

/// Nothing more is tried for a while: ZeroMQ alone would try ten times a second, or never again.
void EngineLink::shutOut(TrackClient& client, EngineSocket& socket, std::string text)
{
    socket.close();
    client.shutOut(std::move(text), steadyNanoseconds());
}

/// A fault of this thread (no memory, no file descriptors) must not end the host.
void EngineLink::recover(TrackClient& client, EngineSocket& socket, const char* what) noexcept
{
    socket.close();
    try
    {
        client.fail("E_LINK", std::string("the connection failed and is tried again: ") + what, steadyNanoseconds());
        publishedAt = 0;
        publish(client);
    }
    catch (const std::exception&) // not even room for the message: the next pass fails or works
    {
    }
    std::this_thread::sleep_for(kIdlePoll);
}

/// What the message thread has asked for, except the configuration.
void EngineLink::takeRequests(TrackClient& client, EngineSocket& socket)
{
    std::optional<PlayerPort> next; // the old player is destroyed outside the lock
    std::vector<ClipSource> clips;
    bool hasMoved = false;
    {
        const std::lock_guard lock(mutex);
        next = std::exchange(nextPlayer, std::nullopt);
        clips = std::exchange(nextClips, {});
        hasMoved = std::exchange(endpointChanged, false);
        if (std::exchange(errorAcknowledged, false))
            client.acknowledgeError();
    }
    if ((next && !*next) || hasMoved)
        socket.sayBye(); // there will be no hello that replaces the track
    if (next || hasMoved)
        socket.close();
    if (next)
    {
        player = std::move(*next);
        player ? client.open(player.rate(), player.latencyFrames(), player.isLoop()) : client.close();
    }
    else if (hasMoved)
    {
        client.reconnect();
    }
    for (const ClipSource& clip : clips)
        clip.source != nullptr ? client.openClip(clip) : client.closeClip(clip.epoch);
}

/// Input from the audio thread, and everything that is due to the engine. True when frames have passed.
bool EngineLink::exchangeFrames(TrackClient& client, EngineSocket& socket)
{
    if (!player)
        return false;
    const bool hasMoved = player.takeFeed([&](const FeedItem& item) { client.accept(item); },
                                          [&](const LaneEdit& edit) { client.accept(edit); });
    std::string address;
    {
        // After the ring: a configuration that was set before a frame was fed must be sent before that frame.
        const std::lock_guard lock(mutex);
        client.provide(knownReferences);
        client.configure(wantedConfig);
        address = wantedEndpoint;
    }
    client.wishPacking(isLocalEndpoint(placeOf(client, address)) ? "none" : "zstd"); // here it would only take time
    client.tick(steadyNanoseconds(), player.output());
    if (client.status().state == LinkState::lost)
        socket.close();
    if (client.takeReconnect())
        connect(client, socket, address);
    if (const std::string ticket = client.takeTicket(); !ticket.empty())
        socket.openAudio(ticket);
    for (const Message& message : client.takeOutbox())
        socket.send(message);
    return hasMoved;
}

/// To the engine of the user's choice, or to the one that it has sent the track to. What is said to another machine is
/// encrypted, or not said.
void EngineLink::connect(TrackClient& client, EngineSocket& socket, const std::string& home)
{
    const std::string address = placeOf(client, home);
    if (!audioEndpointOf(address))
        return client.reportError("E_ENDPOINT", "not an address: " + address);
    auto found = findEngineKeys(home);
    if (hasFailed(found))
        return shutOut(client, socket, std::get<Problem>(found).text);
    std::optional<EngineKeys> keys = std::get<std::optional<EngineKeys>>(std::move(found));
    if (keys && client.redirect())
        keys->server = client.redirect()->key;
    if (!keys && !isLocalEndpoint(address))
        return shutOut(client, socket, explain(KeyFault::missing, home));
    if (!socket.open(address, std::move(keys)))
        client.reportError("E_ENDPOINT", "cannot connect to " + address);
}

bool EngineLink::receiveAll(TrackClient& client, EngineSocket& socket)
{
    bool hasMoved = false;
    const PayloadShape shape{client.rate(), {}}; // the engine sends no lanes
    for (auto parts = socket.receive(); !parts.empty(); parts = socket.receive())
    {
        const Decoded decoded = decode(parts, shape);
        if (const Message* message = std::get_if<Message>(&decoded))
        {
            client.receive(*message, steadyNanoseconds());
            hasMoved = hasMoved || std::holds_alternative<Window>(*message);
        }
        else if (std::get<Fault>(decoded).code != error::unknownMessage)
        {
            client.countBadMessage();
        }
    }
    return hasMoved;
}

/// Windows to the audio thread, as many as its ring takes.
bool EngineLink::pushWindows(TrackClient& client)
{
    bool hasMoved = false;
    while (WetFrame* next = client.nextWindow())
    {
        if (!player.push(*next))
            break;
        client.popWindow();
        hasMoved = true;
    }
    return hasMoved;
}

void EngineLink::publishSigns(const TrackClient& client)
{
    engineSigns.progressAt.store(client.lastProgress(), std::memory_order_release);
    const std::lock_guard lock(mutex);
    if (!nextPlayer && !endpointChanged) // else what is known is about to change
        engineSigns.hopelessEpoch.store(client.hopelessEpoch(), std::memory_order_release);
}

void EngineLink::publish(const TrackClient& client)
{
    const std::int64_t now = steadyNanoseconds();
    const std::lock_guard lock(mutex);
    // A new clip at once: whoever hears it may want another player to have it.
    const bool hasNewClip = !nextPlayer && client.clip().epoch != publishedClip.epoch;
    if (now - publishedAt < kPublishInterval && !hasNewClip)
        return;
    publishedAt = now;
    published = client.status();
    if (errorAcknowledged)
        published.errorCode.clear();
    publishClip(client);
}

/// A copy only where something has changed. The mutex is held.
void EngineLink::publishClip(const TrackClient& client)
{
    const ClipSource& now = client.clip();
    if (nextPlayer || now.source == nullptr)
    {
        publishedClip = {};
        return;
    }
    const bool isKnown = now.epoch == publishedClip.epoch;
    if (isKnown && (client.editCount() == publishedEdits || publishedAt - clipPublishedAt < kClipInterval))
        return;
    clipPublishedAt = publishedAt;
    publishedEdits = client.editCount();
    publishedClip = {now.epoch, now.source, std::make_shared<LaneTable>(*now.lanes)};
}
} // namespace demon
