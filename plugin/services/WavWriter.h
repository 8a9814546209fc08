// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "Problem.h"
#include "SoundFile.h"

namespace demon
{
/// Writes a stereo WAV of 32-bit floats piece by piece. Until finish the file has a name of its own (see WholeFile.h),
/// and without finish it disappears. Equal audio gives equal bytes: nothing in the file says when it was written.
///
/// Blocks on the disk: one thread at a time, never the audio thread. Errors: E_OUTPUT, and then nothing may follow.
class WavWriter
{
public:
    /// The longest audio that a WAV's 32-bit sizes can hold, with room for the header.
    static constexpr std::int64_t kMaxSamples = ((std::int64_t{1} << 32) - 4096) / 8;

    WavWriter(std::filesystem::path nearPath, int sampleRate);
    ~WavWriter();
    WavWriter(const WavWriter&) = delete;
    WavWriter& operator=(const WavWriter&) = delete;

    std::optional<Problem> append(const float* left, const float* right, std::int64_t count);

    /// Completes the file and names it `path`, which must lie in the folder of the constructor's.
    std::optional<Problem> finish(const std::filesystem::path& path);

    std::int64_t samples() const { return written; }

private:
    std::filesystem::path part;
    SoundFile file;
    std::int64_t written = 0;
    std::vector<float> interleaved;
};

/// A whole file at once, [2, samples].
std::optional<Problem> writeWavFile(const std::filesystem::path& path, int rate, const float* audio,
                                    std::int64_t samples);
} // namespace demon
