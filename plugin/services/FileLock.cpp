// SPDX-License-Identifier: AGPL-3.0-or-later
#include "FileLock.h"

#include <cerrno>
#ifndef _WIN32
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#endif

namespace demon
{
#ifdef _WIN32
std::optional<FileLock> FileLock::open(const std::filesystem::path&, bool) { return FileLock(-1); }
FileLock::~FileLock() = default;
#else
std::optional<FileLock> FileLock::open(const std::filesystem::path& path, bool waits)
{
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return std::nullopt;
    FileLock lock(file);
    while (flock(file, waits ? LOCK_EX : LOCK_EX | LOCK_NB) != 0)
        if (errno != EINTR)
            return std::nullopt;
    return lock;
}

FileLock::~FileLock()
{
    if (descriptor >= 0)
        ::close(descriptor);
}
#endif
} // namespace demon
