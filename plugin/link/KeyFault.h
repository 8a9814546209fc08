// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <string>

namespace demon
{
/// Why two ends do not come together, where it is for their keys.
enum class KeyFault
{
    refused,     ///< the engine does not let this client's key in
    otherEngine, ///< it has not the public key that this client was told
    missing,     ///< it wants keys, and this client has none
    unwanted     ///< it takes none, and this client sends nothing in the clear
};

/// What to do about it, for the user: the text of an E_KEYS about the engine at `address`. Any thread.
std::string explain(KeyFault fault, const std::string& address);
} // namespace demon
