// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "FrozenTake.h"
#include "Problem.h"
#include "RenderFile.h"

namespace demon
{
/// Frozen takes on the disk. A take is a WAV, named after its samples, and a description "FIRST32DIGITS.frozen.json",
/// named after itself; the take's id is the SHA-256 of the description, which names the SHA-256 of the samples. Takes
/// of the same audio share the WAV. Nothing here ever removes one.
///
/// Blocks on the disk, for a second per some minutes of audio: not for the audio thread, nor for the message thread.
/// Errors: E_FROZEN_MISSING, E_FROZEN_CORRUPT, E_FROZEN_INCOMPLETE, E_SAMPLE_RATE, E_OUTPUT, E_AUDIO_FILE (no memory).
class FrozenStore
{
public:
    /// Takes are looked for in these folders, in this order: the one beside the project, then the user's.
    explicit FrozenStore(std::vector<std::filesystem::path> foldersToSearch);

    /// "frozen" in the user's data folder.
    static std::filesystem::path userFolder();

    /// Copies a complete render into a folder, which is made. Returns the take's id. Freezing the same again is free.
    static Result<std::string> freeze(const Render& render, const std::filesystem::path& folder);

    /// The take at the host's rate, after its hashes were compared.
    Result<std::shared_ptr<const FrozenTake>> load(const std::string& id, int hostRate) const;

private:
    std::filesystem::path find(const std::string& name) const;
    Problem missing(const std::string& name) const;

    const std::vector<std::filesystem::path> folders;
};
} // namespace demon
