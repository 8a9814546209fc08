// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace demon
{
/// The folder in which renders wait to be dragged out or frozen. Several plugins, also of several processes, share it.
/// Blocks on the disk: any thread but the audio thread. A file that cannot be removed stays.
namespace renderFolder
{
/// "FIRST16DIGITS.wav" of the result's hash, and its receipt.
std::filesystem::path wavOf(const std::filesystem::path& folder, const std::string& resultSha256);
std::filesystem::path receiptOf(const std::filesystem::path& wav);

/// Removes the oldest renders with their receipts until the rest takes no more than `budgetBytes`. `keep` stays.
void makeRoom(const std::filesystem::path& folder, std::uint64_t budgetBytes, const std::filesystem::path& keep);

/// Removes what a process that was killed has left: unfinished files that nobody has written to for a day.
void sweep(const std::filesystem::path& folder);
} // namespace renderFolder
} // namespace demon
