// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <string>

namespace demon
{
/// True for an endpoint that the engine accepts without keys and that this machine alone can reach:
/// tcp://127.x.x.x:PORT, tcp://localhost:PORT or tcp://[::1]:PORT, with a port after PORT.
bool isLocalEndpoint(const std::string& endpoint);

/// Does anybody listen at a local endpoint? Connects, says nothing and leaves. Takes at most a fifth of a second; any
/// thread but the audio thread. Only on POSIX systems: elsewhere false.
bool answersAt(const std::string& endpoint);
} // namespace demon
