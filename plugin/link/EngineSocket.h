// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "demon/messages.h"

namespace demon
{
/// The DEALER socket to an engine, closed and opened anew with the same routing id as often as needed. Link thread
/// only. Construction acquires nothing; open, send and receive may throw, and close then leaves it as after
/// construction.
class EngineSocket
{
public:
    /// False when the endpoint is not an address.
    bool open(const std::string& endpoint);
    void close();
    bool isOpen() const { return socket.handle() != nullptr; }

    /// Never waits. What cannot be sent is dropped: SPEC.md, section 5, says how it is sent again.
    void send(const Message& message);
    void sayBye();

    /// Waits for a message; false when none came.
    bool wait(std::chrono::milliseconds timeout);

    /// The next message's parts, valid until the next call; empty when there is none.
    std::vector<std::string_view> receive();

private:
    std::string routingId;
    std::shared_ptr<zmq::context_t> context;
    zmq::socket_t socket; ///< after the context: closed before it is left
    std::vector<zmq::message_t> received;
};
} // namespace demon
