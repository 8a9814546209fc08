// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <optional>
#include <utility>

namespace demon
{
/// A lock between processes, and between its holders in one process: a file that is locked while this object lives. The
/// system frees it when the process dies; the file stays. Where there is no flock (Windows) it always succeeds. Any
/// thread but the audio thread.
class FileLock
{
public:
    /// Nothing when somebody else holds it, or when the file cannot be opened.
    static std::optional<FileLock> tryTake(const std::filesystem::path& path) { return open(path, false); }

    /// Waits for whoever holds it. Nothing when the file cannot be opened.
    static std::optional<FileLock> take(const std::filesystem::path& path) { return open(path, true); }

    FileLock(FileLock&& other) noexcept : descriptor(std::exchange(other.descriptor, -1)) {}
    FileLock& operator=(FileLock&& other) noexcept
    {
        std::swap(descriptor, other.descriptor);
        return *this;
    }
    ~FileLock();

private:
    explicit FileLock(int openFile) : descriptor(openFile) {}
    static std::optional<FileLock> open(const std::filesystem::path& path, bool waits);

    int descriptor;
};
} // namespace demon
