// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Resampler.h"

#include <new>
#include <soxr.h>
#include <utility>

namespace demon
{
namespace
{
/// Null, or why it failed.
soxr_error_t resampleChannel(const float* in, std::int64_t count, int fromRate, float* out, std::int64_t wanted,
                             int toRate)
{
    const soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT32_I, SOXR_FLOAT32_I);
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_VHQ, 0);
    const soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
    std::size_t done = 0; // the rest, if any, is the silence that `out` holds already
    return soxr_oneshot(fromRate, toRate, 1, in, static_cast<std::size_t>(count), nullptr, out,
                        static_cast<std::size_t>(wanted), &done, &io, &quality, &runtime);
}
} // namespace

Result<AudioClip> resampled(AudioClip clip, int rate)
{
    if (rate == clip.rate)
        return Result<AudioClip>(std::move(clip));
    try
    {
        AudioClip result;
        result.rate = rate;
        result.note = clip.note;
        result.samples = resampledLength(clip.samples, clip.rate, rate);
        result.audio.assign(2 * static_cast<std::size_t>(result.samples), 0.0f);
        for (int side = 0; side < 2; ++side)
        {
            float* const out = result.audio.data() + side * result.samples;
            if (const soxr_error_t failure =
                    resampleChannel(clip.channel(side), clip.samples, clip.rate, out, result.samples, rate))
                return Problem{"E_AUDIO_FILE", std::string("the audio cannot be resampled (") + failure +
                                                   "): convert it to the project's rate and drop it again"};
        }
        return result;
    }
    catch (const std::bad_alloc&)
    {
        return Problem{"E_AUDIO_FILE", "the audio does not fit into memory at the project's rate: cut it"};
    }
}
} // namespace demon
