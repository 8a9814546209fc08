// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineSocket.h"

#include <cstdint>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "demon/codec.h"
#include "demon/endpoint.h"

namespace demon
{
namespace
{
constexpr std::int64_t kMaxReceivedPartBytes = 16 * 1024 * 1024; // 256 frames of stereo at 192 kHz

/// One ZeroMQ context, hence one I/O thread, for all plugin instances of a process, as long as any has a socket.
std::shared_ptr<zmq::context_t> sharedContext()
{
    static std::mutex mutex;
    static std::weak_ptr<zmq::context_t> known;
    const std::lock_guard lock(mutex);
    std::shared_ptr<zmq::context_t> context = known.lock();
    if (context == nullptr)
        known = context = std::make_shared<zmq::context_t>(1);
    return context;
}

constexpr int kHeartbeatMilliseconds = 1000, kHeartbeatTimeout = 5000; // of TCP connections; pings are the protocol's
constexpr int kConnectTimeout = 1000;                                  // a lost SYN is repeated no later

std::string drawRoutingId()
{
    std::random_device random;
    std::string id(17, 'c');
    for (std::size_t i = 1; i < id.size(); ++i)
        id[i] = static_cast<char>(random() & 0xFFu);
    return id;
}

/// Of the audio socket: a letter and the ticket's bytes.
std::string audioRoutingId(const std::string& ticket)
{
    std::string id(1, 'a');
    for (std::size_t i = 0; i + 1 < ticket.size(); i += 2)
        id.push_back(static_cast<char>(std::stoi(ticket.substr(i, 2), nullptr, 16)));
    return id;
}
} // namespace

zmq::socket_t EngineSocket::makeSocket(const std::string& id)
{
    zmq::socket_t socket(*context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::routing_id, id);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, 0); // never drop silently: what is queued is bounded by the engine's credit
    socket.set(zmq::sockopt::rcvhwm, 0); // and what comes by ours
    socket.set(zmq::sockopt::maxmsgsize, kMaxReceivedPartBytes);
    socket.set(zmq::sockopt::reconnect_ivl, 50);
    socket.set(zmq::sockopt::reconnect_ivl_max, 250);
    socket.set(zmq::sockopt::connect_timeout, kConnectTimeout);
    socket.set(zmq::sockopt::heartbeat_ivl, kHeartbeatMilliseconds);
    socket.set(zmq::sockopt::heartbeat_timeout, kHeartbeatTimeout);
    // Otherwise a name is looked up for an address of version 6 first, and no other is tried.
    socket.set(zmq::sockopt::ipv6, audioEndpoint.find('[') != std::string::npos);
    if (keys)
    {
        socket.set(zmq::sockopt::curve_serverkey, keys->server);
        socket.set(zmq::sockopt::curve_publickey, keys->publicKey);
        socket.set(zmq::sockopt::curve_secretkey, keys->secretKey);
    }
    return socket;
}

bool EngineSocket::open(const std::string& endpoint, std::optional<EngineKeys> with)
{
    close();
    keys = std::move(with);
    const std::optional<std::string> next = audioEndpointOf(endpoint);
    if (!next)
        return false;
    controlEndpoint = endpoint;
    audioEndpoint = *next;
    if (routingId.empty())
        routingId = drawRoutingId();
    if (context == nullptr)
        context = sharedContext();
    try
    {
        control = makeSocket(routingId); // throws for a key that is none
        controlWatch.begin(*context, control, endpoint, keys.has_value());
        control.connect(endpoint);
        return true;
    }
    catch (const zmq::error_t&)
    {
        close();
        return false;
    }
}

void EngineSocket::openAudio(const std::string& ticket)
{
    if (!isOpen())
        return;
    audioWatch.end();
    if (audio.handle() != nullptr)
        audio.close();
    audio = makeSocket(audioRoutingId(ticket));
    audioWatch.begin(*context, audio, audioEndpoint, keys.has_value());
    audio.connect(audioEndpoint);
}

void EngineSocket::close()
{
    controlWatch.end();
    audioWatch.end();
    for (zmq::socket_t* socket : {&audio, &control})
        if (socket->handle() != nullptr)
            socket->close();
}

void EngineSocket::send(const Message& message)
{
    zmq::socket_t& socket = isOrdered(message) ? audio : control;
    if (socket.handle() == nullptr)
        return;
    const Parts parts = encode(message);
    for (std::size_t i = 0; i < parts.size(); ++i)
    {
        const auto more = i + 1 < parts.size() ? zmq::send_flags::sndmore : zmq::send_flags::none;
        if (!socket.send(zmq::buffer(parts[i]), zmq::send_flags::dontwait | more))
            return; // the first part only: no connection; what matters is sent again (SPEC.md, section 5)
    }
}

void EngineSocket::sayBye()
{
    if (!isOpen())
        return;
    send(Bye{});
    wait(std::chrono::milliseconds(2)); // lets the context's own thread send it: LINGER is 0
}

bool EngineSocket::wait(std::chrono::milliseconds timeout)
{
    if (!isOpen())
    {
        std::this_thread::sleep_for(timeout);
        return false;
    }
    zmq_pollitem_t items[] = {{control.handle(), 0, ZMQ_POLLIN, 0}, {audio.handle(), 0, ZMQ_POLLIN, 0}};
    const int count = audio.handle() != nullptr ? 2 : 1;
    // The C call: a signal in the host is no exception.
    return zmq_poll(items, count, static_cast<long>(timeout.count())) > 0;
}

bool EngineSocket::receiveFrom(zmq::socket_t& socket)
{
    received.clear();
    do
    {
        zmq::message_t part;
        if (socket.handle() == nullptr || !socket.recv(part, zmq::recv_flags::dontwait))
            break;
        received.push_back(std::move(part));
    } while (received.back().more());
    return !received.empty();
}

std::vector<std::string_view> EngineSocket::receive()
{
    std::vector<std::string_view> parts;
    if (receiveFrom(control) || receiveFrom(audio))
        for (const zmq::message_t& part : received)
            parts.emplace_back(static_cast<const char*>(part.data()), part.size());
    return parts;
}
} // namespace demon
