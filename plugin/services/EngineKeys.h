// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "Problem.h"

namespace demon
{
/// What a client needs in order to reach an engine beyond this machine: keys in Z85.
struct EngineKeys
{
    std::string server, publicKey, secretKey;
};

/// The folder of credential files, which `demon keys new` makes on the engine's machine: userFolders::config()/engines.
std::filesystem::path engineKeysFolder();

/// The keys in the first credential file of that folder (*.json) whose endpoint is this one, letter for letter; nothing
/// where there is none. Files that are no credentials are passed over. E_KEYS for a file that others may read: its
/// secret may be known. Reads files: any thread but the audio thread.
Result<std::optional<EngineKeys>> findEngineKeys(const std::string& endpoint,
                                                 const std::filesystem::path& folder = engineKeysFolder());
} // namespace demon
