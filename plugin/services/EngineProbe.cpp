// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineProbe.h"

#include <cstdint>
#include <optional>
#ifndef _WIN32
#include <arpa/inet.h>
#include <cerrno>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

namespace demon
{
namespace
{
struct Place
{
    std::string host;
    std::uint16_t port = 0;
};

std::optional<Place> placeOf(const std::string& endpoint)
{
    const std::string tcp = "tcp://";
    const std::size_t colon = endpoint.rfind(':');
    if (endpoint.compare(0, tcp.size(), tcp) != 0 || colon < tcp.size())
        return std::nullopt;
    const std::string host = endpoint.substr(tcp.size(), colon - tcp.size()), digits = endpoint.substr(colon + 1);
    const bool isLoopback =
        host == "localhost" || host == "[::1]" ||
        (host.compare(0, 4, "127.") == 0 && host.find_first_not_of("0123456789.") == std::string::npos);
    if (!isLoopback || digits.empty() || digits.size() > 5 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
        return std::nullopt;
    const unsigned long port = std::stoul(digits);
    if (port == 0 || port > 65534) // the next one is for audio
        return std::nullopt;
    return Place{host == "localhost" ? "127.0.0.1" : host, static_cast<std::uint16_t>(port)};
}

#ifndef _WIN32
constexpr int kPatienceMilliseconds = 200;

bool canConnect(int family, const void* address, socklen_t size)
{
    const int handle = socket(family, SOCK_STREAM, 0);
    if (handle < 0)
        return false;
    fcntl(handle, F_SETFD, FD_CLOEXEC);
    fcntl(handle, F_SETFL, O_NONBLOCK);
    int failure = connect(handle, static_cast<const sockaddr*>(address), size) == 0 ? 0 : errno;
    if (failure == EINPROGRESS)
    {
        pollfd item{handle, POLLOUT, 0};
        socklen_t length = sizeof failure;
        if (poll(&item, 1, kPatienceMilliseconds) != 1 ||
            getsockopt(handle, SOL_SOCKET, SO_ERROR, &failure, &length) != 0)
            failure = ETIMEDOUT;
    }
    close(handle);
    return failure == 0;
}
#endif
} // namespace

bool isLocalEndpoint(const std::string& endpoint) { return placeOf(endpoint).has_value(); }

#ifdef _WIN32
bool answersAt(const std::string&) { return false; }
#else
bool answersAt(const std::string& endpoint)
{
    const auto place = placeOf(endpoint);
    if (!place)
        return false;
    if (place->host == "[::1]")
    {
        sockaddr_in6 address{};
        address.sin6_family = AF_INET6;
        address.sin6_port = htons(place->port);
        address.sin6_addr = in6addr_loopback;
        return canConnect(AF_INET6, &address, sizeof address);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(place->port);
    return inet_pton(AF_INET, place->host.c_str(), &address.sin_addr) == 1 &&
           canConnect(AF_INET, &address, sizeof address);
}
#endif
} // namespace demon
