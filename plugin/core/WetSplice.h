// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace demon
{
/// Joins windows and their replacement into one wet signal without clicks.
///
///   window -> window         exact, also from one epoch to the next
///   replacement -> window    at an epoch's start exact; inside an epoch a linear crossfade over kFadeSamples
///   window -> replacement    the jump at the seam is spread: an offset that decays linearly over kFadeSamples
///   replacement -> another   likewise (the dry signal gives way to silence, or silence to it)
///
/// Audio thread only; real-time safe. Works sample by sample: the result does not depend on how the signal is chunked.
class WetSplice
{
public:
    static constexpr int kFadeSamples = 128;

    void reset() noexcept { *this = WetSplice(); }

    /// Writes `count` samples of the wet signal of `epoch` (0: none). `window` is null where there is no window;
    /// `replacement` is always there; `replacementIsSilence` tells the two kinds of it apart.
    struct Source
    {
        std::int32_t epoch = 0;
        bool replacementIsSilence = false;
        std::array<const float*, 2> window{};
        std::array<const float*, 2> replacement{};
        bool hasWindow() const noexcept { return window[0] != nullptr; }
    };
    void render(const Source& source, std::array<float*, 2> out, std::size_t count) noexcept
    {
        if (count == 0)
            return;
        chooseFade(source);
        for (std::size_t ch = 0; ch < 2; ++ch)
        {
            int left = remaining;
            for (std::size_t i = 0; i<count; ++i, left -= left> 0 ? 1 : 0)
                out[ch][i] = sampleAt(source, ch, i, static_cast<float>(left) / kFadeSamples);
            lastWet[ch] = out[ch][count - 1];
        }
        remaining -= static_cast<int>(std::min<std::size_t>(count, static_cast<std::size_t>(remaining)));
        lastHadWindow = source.hasWindow();
        lastWasSilence = source.replacementIsSilence;
        lastEpoch = source.epoch;
    }

private:
    void chooseFade(const Source& source) noexcept
    {
        const bool insideEpoch = source.epoch == lastEpoch;
        if (source.hasWindow())
        {
            if (!lastHadWindow || !insideEpoch)
                remaining = !lastHadWindow && insideEpoch ? kFadeSamples : 0;
            return;
        }
        if (!lastHadWindow && source.replacementIsSilence == lastWasSilence)
            return;
        remaining = kFadeSamples;
        for (std::size_t ch = 0; ch < 2; ++ch)
            offset[ch] = lastWet[ch] - source.replacement[ch][0];
    }

    /// `share` falls from 1 to 0 over the fade; 0 is no fade, and then the source's bits come out.
    float sampleAt(const Source& source, std::size_t ch, std::size_t i, float share) const noexcept
    {
        const float plain = source.hasWindow() ? source.window[ch][i] : source.replacement[ch][i];
        if (share == 0.0f)
            return plain;
        return source.hasWindow() ? plain + share * (source.replacement[ch][i] - plain) : plain + share * offset[ch];
    }

    int remaining = 0; ///< samples of the fade in progress
    std::array<float, 2> offset{};
    std::array<float, 2> lastWet{};
    bool lastHadWindow = false;
    bool lastWasSilence = false;
    std::int32_t lastEpoch = 0;
};
} // namespace demon
