// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace demon
{
/// Takes the click out of a change from one player to another: the jump at the seam is spread, as an offset that decays
/// linearly over kFadeSamples; and where the other player is silent at first, its first sounds fade in over as many.
/// Otherwise the bits pass untouched.
///
/// Audio thread only; real-time safe. Works sample by sample: the result does not depend on how the signal is chunked.
/// A bounce must not hear what sounded before it: reset it there.
class OutputTail
{
public:
    static constexpr int kFadeSamples = 128;

    /// The next sample is the first one: there is nothing to fade from.
    void reset() noexcept { *this = OutputTail(); }

    /// To be called with every block of output. `isOtherPlayer`: it comes from another player than the one before,
    /// which begins with `silence` samples of silence.
    void process(std::array<float*, 2> audio, std::size_t count, bool isOtherPlayer, std::int64_t silence = 0) noexcept
    {
        if (isOtherPlayer)
        {
            changed = true;
            untilFadedIn = hasLast && silence > 0 ? silence + kFadeSamples : 0;
        }
        if (count == 0)
            return;
        fadeIn(audio, count);
        if (changed && hasLast)
        {
            remaining = kFadeSamples;
            for (std::size_t ch = 0; ch < 2; ++ch)
                offset[ch] = last[ch] - audio[ch][0];
        }
        changed = false;
        for (std::size_t ch = 0; ch < 2; ++ch)
        {
            for (std::size_t i = 0; i < count && static_cast<int>(i) < remaining; ++i)
                audio[ch][i] += offset[ch] * static_cast<float>(remaining - static_cast<int>(i)) / kFadeSamples;
            last[ch] = audio[ch][count - 1];
        }
        remaining -= static_cast<int>(std::min<std::size_t>(count, static_cast<std::size_t>(remaining)));
        hasLast = true;
    }

private:
    void fadeIn(std::array<float*, 2> audio, std::size_t count) noexcept
    {
        for (std::size_t i = 0; i < count && untilFadedIn > 0; ++i, --untilFadedIn)
            if (untilFadedIn <= kFadeSamples)
                for (float* channel : audio)
                    channel[i] *= 1.0f - static_cast<float>(untilFadedIn) / kFadeSamples;
    }

    std::int64_t untilFadedIn = 0; ///< samples
    int remaining = 0;
    bool hasLast = false, changed = false;
    std::array<float, 2> last{}, offset{};
};
} // namespace demon
