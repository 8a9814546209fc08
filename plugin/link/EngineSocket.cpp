// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineSocket.h"

#include <cstdint>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "demon/codec.h"

namespace demon
{
namespace
{
constexpr std::int64_t kMaxReceivedPartBytes = 16 * 1024 * 1024;

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

std::string drawRoutingId()
{
    std::random_device random;
    std::string id(17, 'd');
    for (std::size_t i = 1; i < id.size(); ++i)
        id[i] = static_cast<char>(random() & 0xFFu);
    return id;
}
} // namespace

bool EngineSocket::open(const std::string& endpoint)
{
    close();
    if (routingId.empty())
        routingId = drawRoutingId();
    if (context == nullptr)
        context = sharedContext();
    socket = zmq::socket_t(*context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::routing_id, routingId);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, 0); // never drop silently: what is queued is bounded by the latency
    socket.set(zmq::sockopt::rcvhwm, 0);
    socket.set(zmq::sockopt::maxmsgsize, kMaxReceivedPartBytes);
    socket.set(zmq::sockopt::reconnect_ivl, 50);
    socket.set(zmq::sockopt::reconnect_ivl_max, 250);
    try
    {
        socket.connect(endpoint);
        return true;
    }
    catch (const zmq::error_t&)
    {
        close();
        return false;
    }
}

void EngineSocket::close()
{
    if (isOpen())
        socket.close();
}

void EngineSocket::send(const Message& message)
{
    if (!isOpen())
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
    zmq_pollitem_t item{socket.handle(), 0, ZMQ_POLLIN, 0}; // the C call: a signal in the host is no exception
    return zmq_poll(&item, 1, static_cast<long>(timeout.count())) > 0;
}

std::vector<std::string_view> EngineSocket::receive()
{
    received.clear();
    do
    {
        zmq::message_t part;
        if (!isOpen() || !socket.recv(part, zmq::recv_flags::dontwait))
            break;
        received.push_back(std::move(part));
    } while (received.back().more());
    std::vector<std::string_view> parts;
    for (const zmq::message_t& part : received)
        parts.emplace_back(static_cast<const char*>(part.data()), part.size());
    return parts;
}
} // namespace demon
