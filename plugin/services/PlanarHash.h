// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "Problem.h"
#include "Sha256.h"

namespace demon
{
/// The hash of stereo audio [2, N] whose N is not known yet: the left channel is hashed as it comes, the right one
/// waits in a file until the left one is complete. Blocks on the disk: one thread at a time, never the audio thread.
/// Errors: E_OUTPUT, and then nothing may follow.
class PlanarHash
{
public:
    /// The file lies beside `nearPath` as long as this object lives.
    explicit PlanarHash(const std::filesystem::path& nearPath);
    ~PlanarHash();
    PlanarHash(const PlanarHash&) = delete;
    PlanarHash& operator=(const PlanarHash&) = delete;

    std::optional<Problem> append(const float* left, const float* right, std::size_t count);

    /// As hashFloats of the whole. Reads the right channel again: takes seconds for an hour of audio. Call it once.
    Result<std::string> finish();

private:
    struct CloseFile
    {
        void operator()(std::FILE* open) const { std::fclose(open); }
    };

    std::filesystem::path part;
    std::unique_ptr<std::FILE, CloseFile> file;
    Sha256 hash;
};
} // namespace demon
