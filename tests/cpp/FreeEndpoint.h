// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <arpa/inet.h>
#include <cstdint>
#include <netinet/in.h>
#include <random>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

/// Whether nobody listens at a port of this machine.
inline bool isPortFree(int port)
{
    const int handle = socket(AF_INET, SOCK_STREAM, 0);
    const int yes = 1;
    setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    const bool isFree = bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    close(handle);
    return isFree;
}

/// An address on which nobody listens, nor on the next port. It lies below the ports that Linux gives to outgoing
/// connections and to whoever asks for any port: none of those takes it before it is used.
inline std::string freeEndpoint()
{
    constexpr int kLowest = 10000, kHighest = 15499;
    static thread_local std::mt19937 random{std::random_device{}()};
    std::uniform_int_distribution<int> halves(kLowest, kHighest);
    for (;;)
        if (const int port = 2 * halves(random); isPortFree(port) && isPortFree(port + 1))
            return "tcp://127.0.0.1:" + std::to_string(port);
}
