// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>

#include "AudioFile.h"

namespace demon
{
/// Samples of a signal of `samples` at another rate: to the nearest, halves up.
constexpr std::int64_t resampledLength(std::int64_t samples, std::int64_t fromRate, std::int64_t toRate)
{
    return (2 * samples * toRate + fromRate) / (2 * fromRate);
}

/// The whole clip at another rate, by soxr at its VHQ setting, as the engine resamples. The delay of the filter is
/// taken out. In one thread and at once: the same clip always gives the same bits. The clip itself when the rates
/// agree.
///
/// Not for the audio thread: allocates, and takes seconds for minutes of audio. Errors: E_AUDIO_FILE for no memory.
Result<AudioClip> resampled(AudioClip clip, int rate);
} // namespace demon
