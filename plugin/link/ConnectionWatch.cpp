// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ConnectionWatch.h"

#include <atomic>
#include <cstring>
#include <utility>

namespace demon
{
namespace
{
constexpr int kEvents = ZMQ_EVENT_CLOSED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                        ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;
} // namespace

void ConnectionWatch::begin(zmq::context_t& watchContext, zmq::socket_t& socket, const std::string& endpoint,
                            bool withKeys)
{
    end();
    static std::atomic<unsigned> number{0};
    const std::string place = "inproc://demon-connection-" + std::to_string(++number);
    if (zmq_socket_monitor(socket.handle(), place.c_str(), kEvents) != 0)
        throw zmq::error_t();
    context = &watchContext;
    watched = &socket;
    address = endpoint;
    hasKeys = withKeys;
    monitor = zmq::socket_t(watchContext, zmq::socket_type::pair);
    monitor.set(zmq::sockopt::linger, 0);
    monitor.set(zmq::sockopt::rcvhwm, 0); // the context's thread must never wait for this one
    monitor.connect(place);
}

void ConnectionWatch::end()
{
    // First of all: otherwise the context's thread may wait for ever to tell of a connection's end to a monitor that
    // has gone, and no socket of this process is served any more.
    if (watched != nullptr)
        zmq_socket_monitor(watched->handle(), nullptr, 0);
    watched = nullptr;
    if (monitor.handle() != nullptr)
        monitor.close();
    probe.close();
    stands = isAway = hasEnded = hasComeBack = false;
    fault.reset();
}

bool ConnectionWatch::hasDisconnected()
{
    read();
    return std::exchange(hasEnded, false);
}

bool ConnectionWatch::hasReturned()
{
    read();
    return std::exchange(hasComeBack, false);
}

std::optional<KeyFault> ConnectionWatch::keyFault()
{
    read();
    return fault;
}

void ConnectionWatch::read()
{
    (void)probe.mechanism(); // it asks by being read
    zmq::message_t part;     // of each event two: its number with a value, and an address
    while (monitor.handle() != nullptr && monitor.recv(part, zmq::recv_flags::dontwait))
    {
        std::uint16_t event = 0;
        std::uint32_t value = 0;
        if (!part.more() || part.size() < sizeof event + sizeof value)
            continue;
        std::memcpy(&event, part.data(), sizeof event);
        std::memcpy(&value, static_cast<const char*>(part.data()) + sizeof event, sizeof value);
        note(event, value);
    }
}

void ConnectionWatch::note(std::uint16_t event, std::uint32_t value)
{
    switch (event)
    {
    case ZMQ_EVENT_DISCONNECTED:
        if (std::exchange(stands, false))
            hasEnded = isAway = true;
        break;
    case ZMQ_EVENT_CLOSED: // before there was a connection: nobody listens
        probe.close();
        break;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        stands = true;
        hasComeBack = std::exchange(isAway, false) || hasComeBack;
        probe.close();
        fault.reset();
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        fault = KeyFault::refused;
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
            fault = hasKeys ? KeyFault::unwanted : KeyFault::missing;
        break;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        judgeFailure();
        break;
    default:
        break;
    }
}

/// The other end has left in the middle of a handshake. An engine does so when it cannot read what a client with
/// another key for it says, or has noticed first that one end has keys; but so do one that dies, and a tunnel or a
/// container's port with no engine behind it. So the other end is asked how it is secured: an engine that says so and
/// leaves once more is there, and it is for the keys.
void ConnectionWatch::judgeFailure()
{
    const std::string& mechanism = probe.mechanism();
    const bool wantsKeys = mechanism == "CURVE";
    if (mechanism.empty())
        probe.ask(*context, address);
    else if (hasKeys)
        fault = wantsKeys ? KeyFault::otherEngine : KeyFault::unwanted;
    else if (wantsKeys)
        fault = KeyFault::missing;
}
} // namespace demon
