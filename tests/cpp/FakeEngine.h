// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>
#include <zmq.hpp>

#include "FakeLoop.h"
#include "FreeEndpoint.h"
#include "KeyGate.h"
#include "demon/codec.h"
#include "demon/endpoint.h"

/// A small real engine: it speaks the protocol over its two ROUTERs and answers every frame with its negative.
/// It insists on the frames before a resumed one, as an engine with a model that looks back would. Loops are
/// FakeLoop's.
class FakeEngine
{
public:
    std::atomic<bool> holdsWindows{false};                      ///< keeps windows back, as an engine that is late
    std::atomic<std::int64_t> holdsFrom{FakeLoop::kEverything}; ///< likewise windows of clips, from this frame on
    std::atomic<int> hellos{0}, begins{0}, frames{0}, configures{0}, pings{0}, drops{0}, edits{0}, byes{0};
    std::atomic<int> resends{0};
    std::atomic<int> commits{0};     ///< of the begins
    std::atomic<int> loopWindows{0}; ///< of takes, sent
    std::atomic<int> found{0};       ///< tracks that have heard their welcome
    std::atomic<int> unknownAnswers{0};
    std::atomic<int> packedFeeds{0};
    demon::Error refusal;               ///< with a code: answers hello by it. Set before start()
    std::string secretKey;              ///< in Z85: whoever connects needs keys. Set before start()
    std::atomic<bool> allowsKeys{true}; ///< whether there are any with which one may connect, from now on
    demon::Redirect redirect;           ///< with an endpoint: answers hello by it. Set before start()
    std::int64_t retain = 20, credit = 250;

    explicit FakeEngine(std::string address, std::string secret = {})
        : secretKey(std::move(secret)), endpoint(std::move(address))
    {
        start();
    }
    ~FakeEngine() { stop(); }
    const std::string& address() const { return endpoint; }

    /// On this thread: ZeroMQ reads the environment when it begins, which a test may be about to change.
    void start()
    {
        quit = false;
        context = std::make_unique<zmq::context_t>(1);
        gate = secretKey.empty() ? nullptr : std::make_unique<KeyGate>(*context, allowsKeys);
        sockets = {bound(endpoint), bound(demon::audioEndpointOf(endpoint).value())};
        thread = std::thread([this] { run(); });
    }
    /// Like a killed process: all state is lost.
    void stop()
    {
        quit = true;
        if (thread.joinable())
            thread.join();
        sockets = {};
        gate.reset();
        context.reset();
    }
    /// As a restarted server would: every track is unknown from now on.
    void forgetTracks() { forget = true; }

    /// As a fault of the network may: the audio connections end, with what they hold. The tracks stay.
    void cutAudio() { cut = true; }

private:
    struct Epoch
    {
        std::int64_t expected = 0, deliverFrom = 0;
        bool offline = false;
    };
    struct Track
    {
        std::string audioId; ///< routing id of its audio socket
        demon::PayloadShape shape;
        std::string packing;          ///< of its windows
        std::optional<FakeLoop> loop; ///< in mode loop, in place of the epochs
        std::map<std::int64_t, Epoch> epochs;
        std::vector<demon::Message> held;
        std::vector<demon::Message> unheard; ///< windows of streams that were sent and not acknowledged
        bool hasPinged = false;
    };
    using Tracks = std::map<std::string, Track>;

    zmq::socket_t bound(const std::string& address)
    {
        zmq::socket_t socket(*context, zmq::socket_type::router);
        socket.set(zmq::sockopt::linger, 0);
        socket.set(zmq::sockopt::router_mandatory, false);
        socket.set(zmq::sockopt::router_handover, true);
        if (!secretKey.empty())
        {
            socket.set(zmq::sockopt::curve_server, true);
            socket.set(zmq::sockopt::curve_secretkey, secretKey);
        }
        for (int attempt = 0; attempt < 50; ++attempt) // the last run's port may be closing
            try
            {
                socket.bind(address);
                break;
            }
            catch (const zmq::error_t&)
            {
                std::this_thread::sleep_for(std::chrono::milliseconds(20));
            }
        return socket;
    }

    void run()
    {
        Tracks tracks;
        while (!quit)
        {
            if (forget.exchange(false))
                tracks.clear();
            if (cut.exchange(false))
            {
                sockets[1].close();
                sockets[1] = bound(demon::audioEndpointOf(endpoint).value());
            }
            if (!holdsWindows)
                for (auto& [id, track] : tracks)
                    sendWindows(track);
            found = static_cast<int>(
                std::count_if(tracks.begin(), tracks.end(), [](const auto& one) { return one.second.hasPinged; }));
            zmq_pollitem_t items[] = {{sockets[0].handle(), 0, ZMQ_POLLIN, 0}, {sockets[1].handle(), 0, ZMQ_POLLIN, 0}};
            if (zmq_poll(items, 2, 2) <= 0)
                continue;
            for (std::size_t i = 0; i < 2; ++i)
                if ((items[i].revents & ZMQ_POLLIN) != 0)
                    receive(i == 1, tracks);
        }
    }

    void receive(bool isAudio, Tracks& tracks)
    {
        std::vector<zmq::message_t> parts;
        do
        {
            parts.emplace_back();
            (void)sockets[isAudio ? 1 : 0].recv(parts.back());
        } while (parts.back().more());
        std::string id = parts[0].to_string();
        if (isAudio)
        {
            const auto owner =
                std::find_if(tracks.begin(), tracks.end(), [&](const auto& one) { return one.second.audioId == id; });
            if (owner == tracks.end())
            {
                ++unknownAnswers;
                return send(sockets[1], id, demon::Error{demon::error::unknownTrack, "say hello", 0});
            }
            id = owner->first;
        }
        std::vector<std::string_view> views;
        for (std::size_t i = 1; i < parts.size(); ++i)
            views.emplace_back(static_cast<const char*>(parts[i].data()), parts[i].size());
        answer(isAudio, id, views, tracks);
    }

    void sendWindows(Track& track)
    {
        for (demon::Message& window : std::exchange(track.held, {}))
        {
            send(sockets[1], track.audioId, window);
            track.unheard.push_back(std::move(window));
        }
        if (!track.loop)
            return;
        for (const demon::Message& window : track.loop->tick(holdsFrom))
        {
            send(sockets[1], track.audioId, window);
            loopWindows += std::get<demon::Window>(window).take > 0 ? 1 : 0;
        }
    }

    void answer(bool isAudio, const std::string& id, const std::vector<std::string_view>& parts, Tracks& tracks)
    {
        using namespace demon;
        const auto known = tracks.find(id);
        const Decoded decoded = decode(parts, known != tracks.end() ? known->second.shape : PayloadShape());
        const Message* message = std::get_if<Message>(&decoded);
        if (message != nullptr && isAudio != isOrdered(*message))
            return send(id, Error{error::unknownMessage, "the other socket, please", 0});
        if (message != nullptr && std::holds_alternative<Hello>(*message))
            return greet(id, std::get<Hello>(*message), tracks);
        if (known == tracks.end())
        {
            ++unknownAnswers;
            return send(id, Error{error::unknownTrack, "say hello", 0});
        }
        if (message == nullptr)
            return send(id, Error{std::get<Fault>(decoded).code, std::get<Fault>(decoded).text, 0});
        count(*message);
        if (std::holds_alternative<Bye>(*message))
            return (void)tracks.erase(known);
        Track& track = known->second;
        track.hasPinged = track.hasPinged || std::holds_alternative<Ping>(*message);
        if (!track.loop)
            return std::visit([&](const auto& m) { on(id, track, m); }, *message);
        const std::int64_t before = track.loop->framesTaken();
        for (const Message& reply : track.loop->answer(*message))
            isOrdered(reply) ? send(sockets[1], track.audioId, reply) : send(id, reply);
        frames += static_cast<int>(track.loop->framesTaken() - before);
        if (std::holds_alternative<Feed>(*message))
            for (const Message& reply : track.loop->answer(Ping{})) // its answer tells what was taken
                send(id, reply);
    }

    void greet(const std::string& id, const demon::Hello& hello, Tracks& tracks)
    {
        using namespace demon;
        ++hellos;
        if (!refusal.code.empty())
            return send(id, refusal);
        if (!redirect.endpoint.empty())
            return send(id, redirect);
        const bool isLoop = hello.mode == "loop";
        if (isLoop && hello.latency != 0)
            return send(id, Error{error::latency, "a loop has no latency", 0});
        const std::string digits = std::to_string(hellos);
        const std::string ticket = std::string(kTicketDigits - digits.size(), 'a') + digits;
        std::string audioId = "a";
        for (std::size_t i = 0; i < ticket.size(); i += 2)
            audioId.push_back(static_cast<char>(std::stoi(ticket.substr(i, 2), nullptr, 16)));
        Track& track = tracks[id] =
            Track{audioId, {static_cast<int>(hello.rate), hello.lanes}, hello.packing, {}, {}, {}, {}};
        if (isLoop)
            track.loop.emplace(track.shape.rate, hello.lanes.size());
        Welcome welcome;
        welcome.ticket = ticket;
        welcome.credit = credit;
        welcome.packing = hello.packing;
        welcome.server = "fake";
        welcome.checkpoint = "echo";
        welcome.checkpointHash = std::string(64, '0');
        welcome.backend = "test";
        welcome.lanes = hello.lanes;
        welcome.costs.assign(hello.lanes.size(), "free");
        welcome.retain = retain;
        welcome.clipLimit = FakeLoop::kClipLimit;
        send(id, welcome);
    }

    void count(const demon::Message& message)
    {
        using namespace demon;
        const auto* const begin = std::get_if<Begin>(&message);
        begins += begin != nullptr ? 1 : 0;
        commits += begin != nullptr && begin->kind == "commit" ? 1 : 0;
        configures += std::holds_alternative<Configure>(message) ? 1 : 0;
        pings += std::holds_alternative<Ping>(message) ? 1 : 0;
        drops += std::holds_alternative<Drop>(message) ? 1 : 0;
        edits += std::holds_alternative<Edit>(message) ? 1 : 0;
        byes += std::holds_alternative<Bye>(message) ? 1 : 0;
        resends += std::holds_alternative<Resend>(message) ? 1 : 0;
    }

    // --- mode stream ---

    void on(const std::string& id, Track& track, const demon::Begin& m)
    {
        using namespace demon;
        const std::int64_t first = FrameGrid::forRate(track.shape.rate).frameOf(m.start);
        if (m.kind != "stream")
            return send(id, Error{error::field, "a stream's epochs are streams", m.epoch});
        if (m.deliverFrom < first || m.feedFrom < first || m.feedFrom > std::max(first, m.deliverFrom - retain))
            return send(id, Error{error::field, "feed_from lies too late", m.epoch});
        track.epochs[m.epoch] = {m.feedFrom, m.deliverFrom, m.offline};
    }
    void on(const std::string& id, Track& track, const demon::Feed& m)
    {
        using namespace demon;
        const auto known = track.epochs.find(m.epoch);
        if (known == track.epochs.end())
            return send(id, Error{error::epoch, "no such epoch", m.epoch});
        Epoch& epoch = known->second;
        if (m.frame > epoch.expected)
            return send(id, Error{error::feedGap, "gap", m.epoch});
        if (m.frame < epoch.expected)
            return;
        epoch.expected = m.frame + m.count;
        packedFeeds += m.packing == "zstd" ? 1 : 0;
        frames += static_cast<int>(m.count);
        const std::int64_t from = std::max(m.frame, epoch.deliverFrom);
        if (from >= epoch.expected)
            return send(id, positions(track, 0));
        epoch.deliverFrom = epoch.expected;
        const auto length = static_cast<std::size_t>(track.shape.rate / 25);
        Window window{m.epoch, 0, from, epoch.expected - from, track.packing, {}};
        for (std::size_t channel = 0; channel < 2; ++channel)
        {
            const std::size_t end = (channel + 1) * static_cast<std::size_t>(m.count) * length;
            for (std::size_t i = end - static_cast<std::size_t>(window.count) * length; i < end; ++i)
                window.audio.push_back(-m.audio[i]);
        }
        track.held.emplace_back(std::move(window));
        send(id, positions(track, 0));
    }
    void on(const std::string& id, Track& track, const demon::Ping& m)
    {
        if (const auto known = track.epochs.find(m.epoch); known != track.epochs.end() && !known->second.offline)
            known->second.deliverFrom = std::max(known->second.deliverFrom, m.wanted);
        const auto isHeard = [&](const demon::Message& message)
        {
            const auto& window = std::get<demon::Window>(message);
            return std::pair(window.epoch, window.frame + window.count) <= std::pair(m.epoch, m.wanted);
        };
        track.unheard.erase(std::remove_if(track.unheard.begin(), track.unheard.end(), isHeard), track.unheard.end());
        send(id, positions(track, m.number));
    }
    static demon::Pong positions(const Track& track, std::int64_t number)
    {
        demon::Pong pong;
        pong.number = number;
        for (const auto& [epoch, state] : track.epochs)
        {
            pong.epochs.push_back(epoch);
            pong.expected.push_back(state.expected);
        }
        return pong;
    }
    void on(const std::string& id, Track&, const demon::Configure& m) { send(id, demon::Configured{m.revision}); }
    void on(const std::string&, Track& track, const demon::Drop& m) { track.epochs.erase(m.epoch); }
    void on(const std::string&, Track& track, const demon::Resend&)
    {
        for (const demon::Message& window : track.unheard)
            send(sockets[1], track.audioId, window);
    }
    template <class Other> void on(const std::string&, Track&, const Other&) {}

    void send(const std::string& id, const demon::Message& message) { send(sockets[0], id, message); }
    static void send(zmq::socket_t& socket, const std::string& id, const demon::Message& message)
    {
        const demon::Parts parts = demon::encode(message);
        (void)socket.send(zmq::buffer(id), zmq::send_flags::sndmore);
        for (std::size_t i = 0; i < parts.size(); ++i)
            (void)socket.send(zmq::buffer(parts[i]),
                              i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }

    const std::string endpoint;
    std::unique_ptr<zmq::context_t> context;
    std::unique_ptr<KeyGate> gate;
    std::array<zmq::socket_t, 2> sockets; ///< control and audio
    std::atomic<bool> quit{false}, forget{false}, cut{false};
    std::thread thread;
};
