// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "Problem.h"

/// Files that appear whole or not at all. Blocks on the disk: any thread but the audio thread. Errors are E_OUTPUT.
namespace demon
{
/// A name beside `path`, of this process and this call only, for what is not finished: ".NAME.PID-NUMBER.part".
std::filesystem::path partPathOf(const std::filesystem::path& path);

/// Makes the folder and those above it.
std::optional<Problem> makeFolder(const std::filesystem::path& folder);

/// Gives a finished part its name, in place of what had it before.
std::optional<Problem> renamePart(const std::filesystem::path& part, const std::filesystem::path& path);

std::optional<Problem> writeWholeFile(const std::filesystem::path& path, std::string_view bytes);

/// The bytes of a regular file of at most `limit` bytes; nothing when there is no such file.
std::optional<std::string> readWholeFile(const std::filesystem::path& path, std::uintmax_t limit = 64u << 20);

/// The problem with a file that cannot be written: `reason` is the system's.
Problem outputProblem(const std::filesystem::path& path, const std::string& reason);
} // namespace demon
