// SPDX-License-Identifier: AGPL-3.0-or-later
#include "GreetingProbe.h"

#include <string_view>

namespace demon
{
namespace
{
using namespace std::string_view_literals;

// The beginning of a greeting of ZMTP 3.0: after it the other end names its mechanism. The rest never comes.
constexpr std::string_view kQuestion = "\xFF\0\0\0\0\0\0\0\0\x7F\x03\0"sv;
constexpr std::size_t kGreetingBytes = 64, kMechanismAt = 12, kMechanismBytes = 20;

bool isGreeting(const std::string& bytes)
{
    return bytes.size() == kGreetingBytes && bytes[0] == '\xFF' && bytes[9] == '\x7F';
}
} // namespace

void GreetingProbe::ask(zmq::context_t& context, const std::string& endpoint)
{
    if (socket.handle() != nullptr || !answer.empty())
        return;
    socket = zmq::socket_t(context, zmq::socket_type::stream);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::ipv6, endpoint.find('[') != std::string::npos);
    socket.connect(endpoint);
}

const std::string& GreetingProbe::mechanism()
{
    zmq::message_t from, bytes;
    while (socket.handle() != nullptr && socket.recv(from, zmq::recv_flags::dontwait))
    {
        (void)socket.recv(bytes, zmq::recv_flags::dontwait);
        take(from, bytes);
    }
    return answer;
}

void GreetingProbe::close()
{
    if (socket.handle() != nullptr)
        socket.close();
    greeting.clear();
    answer.clear();
}

void GreetingProbe::take(const zmq::message_t& from, const zmq::message_t& bytes)
{
    if (bytes.size() == 0) // a connection begins, or has ended
    {
        greeting.clear();
        // The C calls: a connection that has ended is no exception.
        if (zmq_send(socket.handle(), from.data(), from.size(), ZMQ_DONTWAIT | ZMQ_SNDMORE) >= 0)
            zmq_send(socket.handle(), kQuestion.data(), kQuestion.size(), ZMQ_DONTWAIT);
        return;
    }
    greeting += bytes.to_string_view();
    if (greeting.size() < kGreetingBytes)
        return;
    if (isGreeting(greeting))
        answer = std::string(greeting.substr(kMechanismAt, kMechanismBytes).c_str());
    socket.close();
}
} // namespace demon
