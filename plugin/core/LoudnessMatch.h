// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace demon
{
/// Measures how much louder or softer the wet signal is than the dry one, slowly, and says which gain would make them
/// alike. It does not apply the gain: what a bounce plays may not depend on what was measured before it, so the gain
/// that acts is a control (Controls::matchGainDb).
///
/// Both signals are weighed alike before they are squared: a first-order high-pass at 100 Hz keeps the bass from
/// deciding, as in the K-weighting of ITU-R BS.1770 (whose shelf for the head is left out). Silence counts for nothing.
///
/// Audio thread only; real-time safe.
class LoudnessMatch
{
public:
    static constexpr float kMostDb = 12.0f;
    static constexpr float kMeanSeconds = 3.0f;

    explicit LoudnessMatch(int samplesPerSecond)
        : highPass(1.0f - std::exp(-6.2831853f * 100.0f / static_cast<float>(samplesPerSecond))),
          share(1.0f / (kMeanSeconds * static_cast<float>(samplesPerSecond)))
    {
    }

    /// Dry and wet samples that sound at the same time.
    void measure(std::array<const float*, 2> dry, std::array<const float*, 2> wet, std::size_t count) noexcept
    {
        for (std::size_t i = 0; i < count; ++i)
        {
            const float dryNow = weighed(0, dry[0][i], dry[1][i]);
            const float wetNow = weighed(2, wet[0][i], wet[1][i]);
            if (dryNow < kSilence && wetNow < kSilence)
                continue;
            dryMean += share * (dryNow - dryMean);
            wetMean += share * (wetNow - wetMean);
        }
    }

    /// The gain for the wet signal, within +-kMostDb; 0 until there was something to compare.
    float suggestedDb() const noexcept
    {
        if (dryMean == 0.0f || wetMean == 0.0f)
            return 0.0f;
        return std::clamp(10.0f * std::log10(dryMean / wetMean), -kMostDb, kMostDb);
    }

    void reset() noexcept
    {
        dryMean = wetMean = 0.0f;
        lows.fill(0.0f);
    }

private:
    static constexpr float kSilence = 1e-6f; // -60 dBFS

    /// Mean square of a stereo sample after the high-pass; `first` tells whose memory.
    float weighed(std::size_t first, float left, float right) noexcept
    {
        lows[first] += highPass * (left - lows[first]);
        lows[first + 1] += highPass * (right - lows[first + 1]);
        const float l = left - lows[first], r = right - lows[first + 1];
        return 0.5f * (l * l + r * r);
    }

    float highPass, share;
    float dryMean = 0.0f, wetMean = 0.0f;
    std::array<float, 4> lows{};
};
} // namespace demon
