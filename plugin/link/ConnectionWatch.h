// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "GreetingProbe.h"
#include "KeyFault.h"

namespace demon
{
/// What ZeroMQ tells of a socket's connection: that it has ended, and that the two ends do not come together for their
/// keys. Link thread only; no call waits. What may throw (zmq::error_t) leaves it so that end works.
class ConnectionWatch
{
public:
    /// Of a socket that is about to be connected to `endpoint`, with keys or without.
    void begin(zmq::context_t& watchContext, zmq::socket_t& socket, const std::string& endpoint, bool withKeys);

    /// Before the socket is closed, or where there is none.
    void end();

    /// Whether a connection that stood has ended since it was asked last: the other end is gone, or the way to it.
    /// ZeroMQ goes on trying to get there.
    bool hasDisconnected();

    /// Whether one stands in the place of one that has ended, since it was asked last: what was on its way is lost.
    bool hasReturned();

    /// What keeps the ends apart now. ZeroMQ may have given up. Nothing where nobody listens, or somebody who does not
    /// speak ZeroMQ's protocol.
    std::optional<KeyFault> keyFault();

private:
    void read();
    void note(std::uint16_t event, std::uint32_t value);
    void judgeFailure();

    zmq::context_t* context = nullptr;
    zmq::socket_t* watched = nullptr;
    zmq::socket_t monitor;
    GreetingProbe probe;
    std::string address;
    bool hasKeys = false;
    bool stands = false, isAway = false;
    bool hasEnded = false, hasComeBack = false;
    std::optional<KeyFault> fault;
};
} // namespace demon
