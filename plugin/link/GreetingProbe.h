// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <string>
#include <zmq.hpp>

namespace demon
{
/// Asks what listens at an address for the first words of ZeroMQ, which name how it is secured. Tells nothing of this
/// client, and never becomes one. Link thread only; no call waits. What may throw (zmq::error_t) leaves it so that
/// close works.
class GreetingProbe
{
public:
    /// Asks, again and again until there is an answer; nothing where it asks already.
    void ask(zmq::context_t& context, const std::string& endpoint);

    /// "CURVE" or "NULL"; empty while nothing has answered that speaks ZeroMQ's protocol.
    const std::string& mechanism();

    /// Forgets the answer, too.
    void close();

private:
    void take(const zmq::message_t& from, const zmq::message_t& bytes);

    zmq::socket_t socket;
    std::string greeting, answer;
};
} // namespace demon
