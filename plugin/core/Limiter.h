// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace demon
{
/// Keeps both channels within -0.1 dBFS without any delay: the gain falls at once, for both alike, and comes back over
/// kReleaseSeconds. While nothing exceeds the ceiling and nothing did lately, the bits pass untouched.
///
/// A safety net, not an effect: it has no lookahead, so a large overshoot is audible. Audio thread only; real-time
/// safe. Works sample by sample: the result does not depend on how the signal is chunked.
class Limiter
{
public:
    static constexpr float kCeiling = 0.98855309f; // -0.1 dBFS
    static constexpr float kReleaseSeconds = 0.05f;

    explicit Limiter(int samplesPerSecond)
        : release(std::exp(-1.0f / (kReleaseSeconds * static_cast<float>(samplesPerSecond))))
    {
    }

    void reset() noexcept { reduction = 0.0f; }

    void process(std::array<float*, 2> audio, std::size_t count) noexcept
    {
        for (std::size_t i = 0; i < count; ++i)
        {
            const float peak = std::max(std::abs(audio[0][i]), std::abs(audio[1][i]));
            reduction = reduction < kNegligible ? 0.0f : reduction * release;
            if (peak * (1.0f - reduction) > kCeiling)
                reduction = 1.0f - kCeiling / peak;
            if (reduction == 0.0f)
                continue;
            const float gain = 1.0f - reduction;
            for (float* channel : audio)
                channel[i] = std::clamp(channel[i] * gain, -kCeiling, kCeiling); // rounding may lie above
        }
    }

private:
    static constexpr float kNegligible = 1e-5f; // the step that is left is below -100 dB

    float release;          ///< per sample
    float reduction = 0.0f; ///< 1 less the gain: it comes close to 0 without rounding
};
} // namespace demon
