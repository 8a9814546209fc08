// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

#include "ConnectionWatch.h"
#include "demon/messages.h"
#include "services/EngineKeys.h"

namespace demon
{
/// The two DEALER sockets to an engine (SPEC.md, section 1): control, closed and opened anew with the same routing id
/// as often as needed, and audio, whose routing id is the ticket of the last welcome. Link thread only. Construction
/// acquires nothing; what may throw leaves it so that close works.
class EngineSocket
{
public:
    EngineSocket() = default;
    ~EngineSocket() { close(); }
    EngineSocket(const EngineSocket&) = delete;
    EngineSocket& operator=(const EngineSocket&) = delete;

    /// Opens the control socket; encrypted and known by its key, as the audio socket will be, if there are keys. False
    /// when the endpoint is not an address.
    bool open(const std::string& endpoint, std::optional<EngineKeys> with = std::nullopt);

    /// Opens the audio socket in place of the one before. Needs an open control socket.
    void openAudio(const std::string& ticket);

    void close();
    bool isOpen() const { return control.handle() != nullptr; }

    /// Where the control socket goes, as it was given.
    const std::string& endpoint() const { return controlEndpoint; }

    /// Of the control socket since it was opened, see ConnectionWatch.
    bool hasDisconnected() { return controlWatch.hasDisconnected(); }
    std::optional<KeyFault> keyFault() { return controlWatch.keyFault(); }

    /// Of the audio socket since it was opened.
    bool hasAudioReturned() { return audioWatch.hasReturned(); }

    /// By the socket on which the message belongs. Never waits. What cannot be sent is dropped: SPEC.md, section 5,
    /// says how it is sent again.
    void send(const Message& message);
    void sayBye();

    /// Waits for a message on either; false when none came.
    bool wait(std::chrono::milliseconds timeout);

    /// The next message's parts, valid until the next call; empty when there is none. Control comes first.
    std::vector<std::string_view> receive();

private:
    zmq::socket_t makeSocket(const std::string& routingId);
    bool receiveFrom(zmq::socket_t& socket);

    std::string routingId;
    std::string controlEndpoint, audioEndpoint;
    std::optional<EngineKeys> keys;
    std::shared_ptr<zmq::context_t> context;
    zmq::socket_t control, audio; ///< after the context: closed before it is left
    ConnectionWatch controlWatch, audioWatch;
    std::vector<zmq::message_t> received;
};
} // namespace demon
