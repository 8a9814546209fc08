// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>

#include "DelayLine.h"
#include "Ramp.h"
#include "WetSplice.h"

namespace demon
{
/// Delays the dry signal with its mix and gain by the latency, and mixes the wet signal in. Mix and gain glide over a
/// few milliseconds and act on the output where they were drawn. Exact, bit for bit, at mix 0, at mix 1 and at gain 1.
///
/// Construction allocates; all else belongs to the audio thread and is real-time safe. Call delay for every run of
/// samples, and then mix unless the run is muted.
class OutputStage
{
public:
    static constexpr std::size_t kMaxRun = 256;

    struct Level
    {
        float mix = 1.0f;
        float gain = 1.0f;
    };

    OutputStage(std::size_t latencySamples, int rampSamples)
        : left(latencySamples), right(latencySamples), mixes(latencySamples), gains(latencySamples),
          mixRamp(rampSamples), gainRamp(rampSamples)
    {
    }

    /// The next sample to be mixed is the first one: there is nothing to glide or to fade from.
    void restart() noexcept
    {
        splice.reset();
        isFirst = true;
    }

    /// Replaces `run` <= kMaxRun samples of input by the dry signal of a latency ago.
    void delay(std::array<float*, 2> audio, std::size_t run, Level level) noexcept
    {
        std::fill_n(mixNow.begin(), run, level.mix);
        std::fill_n(gainNow.begin(), run, level.gain);
        left.exchange(audio[0], run);
        right.exchange(audio[1], run);
        mixes.exchange(mixNow.data(), run);
        gains.exchange(gainNow.data(), run);
    }

    /// Mixes the delayed dry samples in `audio`, those of the last delay, with `source`.
    void mix(std::array<float*, 2> audio, std::size_t run, const WetSplice::Source& source) noexcept
    {
        if (isFirst)
        {
            mixRamp.jumpTo(mixNow[0]);
            gainRamp.jumpTo(gainNow[0]);
            isFirst = false;
        }
        splice.render(source, {wet[0].data(), wet[1].data()}, run);
        for (std::size_t i = 0; i < run; ++i)
        {
            const Level level{mixRamp.next(mixNow[i]), gainRamp.next(gainNow[i])};
            audio[0][i] = blend(audio[0][i], wet[0][i], level);
            audio[1][i] = blend(audio[1][i], wet[1][i], level);
        }
    }

private:
    /// No arithmetic touches the bits where the result is one of the inputs.
    static float blend(float dry, float wet, Level level) noexcept
    {
        const float blended = level.mix == 0.0f ? dry : level.mix == 1.0f ? wet : dry + level.mix * (wet - dry);
        return level.gain == 1.0f ? blended : blended * level.gain;
    }

    DelayLine left, right, mixes, gains;
    Ramp mixRamp, gainRamp;
    WetSplice splice;
    bool isFirst = true;
    std::array<float, kMaxRun> mixNow{}, gainNow{};
    std::array<std::array<float, kMaxRun>, 2> wet{};
};
} // namespace demon
