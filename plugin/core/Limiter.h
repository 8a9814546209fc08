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
        : recovery(1.0f - std::exp(-1.0f / (kReleaseSeconds * static_cast<float>(samplesPerSecond))))
    {
    }

    void reset() noexcept { gain = 1.0f; }

    void process(std::array<float*, 2> audio, std::size_t count) noexcept
    {
        for (std::size_t i = 0; i < count; ++i)
        {
            const float peak = std::max(std::abs(audio[0][i]), std::abs(audio[1][i]));
            gain += (1.0f - gain) * recovery;
            if (gain > kAsGoodAsOne)
                gain = 1.0f;
            if (peak * gain > kCeiling)
                gain = kCeiling / peak;
            if (gain == 1.0f)
                continue;
            for (float* channel : audio)
                channel[i] = std::clamp(channel[i] * gain, -kCeiling, kCeiling); // rounding may lie above
        }
    }

private:
    static constexpr float kAsGoodAsOne = 0.99999f; // the step that is left is below -100 dB

    float recovery;
    float gain = 1.0f;
};
} // namespace demon
