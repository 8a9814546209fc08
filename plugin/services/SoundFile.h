// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <memory>
#include <sndfile.h>

namespace demon
{
struct CloseSoundFile
{
    void operator()(SNDFILE* file) const { sf_close(file); }
};
using SoundFile = std::unique_ptr<SNDFILE, CloseSoundFile>;

/// libsndfile's own open, for paths in any alphabet. Null on failure: sf_strerror(nullptr) then says why.
inline SoundFile openSoundFile(const std::filesystem::path& path, int mode, SF_INFO& info)
{
#ifdef _WIN32
    return SoundFile(sf_wchar_open(path.c_str(), mode, &info));
#else
    return SoundFile(sf_open(path.c_str(), mode, &info));
#endif
}
} // namespace demon
