// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>

namespace demon
{
/// The address of the audio socket of an engine: the next port after that of its endpoint, `tcp://HOST:PORT` (SPEC.md,
/// section 1). Nothing for what is not such an address, or has no next port.
inline std::optional<std::string> audioEndpointOf(const std::string& endpoint)
{
    const std::string tcp = "tcp://";
    const std::size_t colon = endpoint.rfind(':');
    if (endpoint.compare(0, tcp.size(), tcp) != 0 || colon == std::string::npos || colon <= tcp.size())
        return std::nullopt;
    const std::string digits = endpoint.substr(colon + 1);
    if (digits.empty() || digits.size() > 5 || digits.find_first_not_of("0123456789") != std::string::npos)
        return std::nullopt;
    const int port = std::stoi(digits);
    if (port < 1 || port >= 65535)
        return std::nullopt;
    return endpoint.substr(0, colon + 1) + std::to_string(port + 1);
}

/// Where a `redirect` leads: its host may be `*`, which is the host of the endpoint that the hello went to.
inline std::string redirectedTo(const std::string& target, const std::string& from)
{
    const std::string anyHost = "tcp://*:";
    const std::size_t colon = from.rfind(':');
    if (target.compare(0, anyHost.size(), anyHost) != 0 || colon == std::string::npos)
        return target;
    return from.substr(0, colon + 1) + target.substr(anyHost.size());
}
} // namespace demon
