// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <string>
#include <thread>
#include <vector>
#include <zmq.hpp>

/// Answers the encrypted sockets of a context whether a key may connect (ZeroMQ's RFC 27): each, or none.
class KeyGate
{
public:
    KeyGate(zmq::context_t& context, const std::atomic<bool>& allowsKeys)
        : allows(allowsKeys), socket(context, zmq::socket_type::rep)
    {
        socket.set(zmq::sockopt::linger, 0);
        socket.set(zmq::sockopt::rcvtimeo, 2);
        socket.bind("inproc://zeromq.zap.01");
        thread = std::thread([this] { run(); });
    }
    ~KeyGate()
    {
        quit = true;
        thread.join();
    }
    KeyGate(const KeyGate&) = delete;
    KeyGate& operator=(const KeyGate&) = delete;

private:
    void run()
    {
        while (!quit)
        {
            std::vector<std::string> question = receive();
            if (question.size() < 2)
                continue;
            const bool isAllowed = allows;
            for (const std::string& part : {question[0], question[1], std::string(isAllowed ? "200" : "400"),
                                            std::string(isAllowed ? "OK" : "no such key"), std::string("user")})
                socket.send(zmq::buffer(part), zmq::send_flags::sndmore);
            socket.send(zmq::message_t(), zmq::send_flags::none);
        }
    }

    std::vector<std::string> receive()
    {
        std::vector<std::string> parts;
        zmq::message_t part;
        do
        {
            if (!socket.recv(part))
                return {};
            parts.push_back(part.to_string());
        } while (part.more());
        return parts;
    }

    const std::atomic<bool>& allows;
    std::atomic<bool> quit{false};
    zmq::socket_t socket;
    std::thread thread;
};
