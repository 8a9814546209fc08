// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "Problem.h"

namespace demon
{
/// Audio in memory, always stereo.
struct AudioClip
{
    int rate = 48000;
    std::int64_t samples = 0; ///< per channel
    std::vector<float> audio; ///< [2, samples], finite
    std::string note;         ///< what the user should know about the file, or empty

    const float* channel(int index) const { return audio.data() + index * samples; }
};

/// What a file may be at most.
struct AudioLimits
{
    double maxSeconds = 1200.0;
    int minRate = 1000;
    int maxRate = 768000;
};

/// Reads whatever libsndfile reads: WAV, FLAC, OGG, AIFF and more. Mono sounds on both sides; of more than two channels
/// the first two are taken, NaN and infinity become 0, and the clip's note says so. A header is never believed: memory
/// grows with what is really read. Blocks on the disk: any thread but the audio thread.
/// Errors: E_AUDIO_FILE.
Result<AudioClip> readAudioFile(const std::filesystem::path& path, const AudioLimits& limits = {});
} // namespace demon
