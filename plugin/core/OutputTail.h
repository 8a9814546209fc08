// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>

namespace demon
{
/// Takes the click out of a change from one player to another: the jump at the seam is spread, as an offset that decays
/// linearly over kFadeSamples. Otherwise the bits pass untouched.
///
/// Audio thread only; real-time safe. Works sample by sample: the result does not depend on how the signal is chunked.
/// A bounce must not hear what sounded before it: reset it there.
class OutputTail
{
public:
    static constexpr int kFadeSamples = 128;

    /// The next sample is the first one: there is nothing to fade from.
    void reset() noexcept { *this = OutputTail(); }

    /// To be called with every block of output. `isOtherPlayer`: it comes from another player than the one before.
    void process(std::array<float*, 2> audio, std::size_t count, bool isOtherPlayer) noexcept
    {
        if (count == 0)
        {
            changed = changed || isOtherPlayer;
            return;
        }
        if ((isOtherPlayer || changed) && hasLast)
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
    int remaining = 0;
    bool hasLast = false, changed = false;
    std::array<float, 2> last{}, offset{};
};
} // namespace demon
