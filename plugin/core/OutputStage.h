// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "Controls.h"
#include "DelayLine.h"
#include "Limiter.h"
#include "LoudnessMatch.h"
#include "Ramp.h"
#include "StreamItems.h"
#include "WetSplice.h"

namespace demon
{
/// Delays the dry signal with its mix and gain by the latency, mixes the wet signal in, and limits and measures the
/// result. Mix and gain glide over a few milliseconds and act on the output where they were drawn. Exact, bit for bit,
/// at mix 0, at mix 1 and at gain 1, with a match of 0 dB and below the limiter's ceiling.
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

        /// Bypass is the dry signal at unity gain.
        static Level of(const Controls& controls) noexcept
        {
            if (controls.bypassed)
                return {0.0f, 1.0f};
            return {controls.lanes[lane::mix], decibels(controls.lanes[lane::output_gain])};
        }
    };

    /// What acts on the output at once, not a latency later.
    struct Finish
    {
        float match = 1.0f; ///< gain of the windows, not of what replaces them
        bool limit = false;

        static Finish of(const Controls& controls, bool offline) noexcept
        {
            const float match = std::clamp(controls.matchGainDb, -LoudnessMatch::kMostDb, LoudnessMatch::kMostDb);
            return {match == 0.0f ? 1.0f : decibels(match),
                    controls.limit && !controls.bypassed && (!offline || controls.limitOffline)};
        }
    };

    /// `latencySamples` may be 0.
    OutputStage(std::size_t latencySamples, int samplesPerSecond, Telemetry& numbersForUser)
        : left(latencySamples), right(latencySamples), mixes(latencySamples), gains(latencySamples),
          mixRamp(samplesPerSecond / kRampsPerSecond), gainRamp(samplesPerSecond / kRampsPerSecond),
          matchRamp(samplesPerSecond / kRampsPerSecond), splice(samplesPerSecond / kTakeFadesPerSecond),
          limiter(samplesPerSecond), loudness(samplesPerSecond), rate(static_cast<float>(samplesPerSecond)),
          telemetry(numbersForUser)
    {
    }

    /// The next sample to be mixed is the first one: there is nothing to glide or to fade from.
    void restart() noexcept
    {
        splice.reset();
        limiter.reset();
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

    /// After delay: `level` counts for these samples, in place of that of a latency ago. For what was never delayed.
    void replaceLevel(std::size_t run, Level level) noexcept
    {
        std::fill_n(mixNow.begin(), run, level.mix);
        std::fill_n(gainNow.begin(), run, level.gain);
    }

    /// Mixes the delayed dry samples in `audio`, those of the last delay, with `source`.
    void mix(std::array<float*, 2> audio, std::size_t run, const WetSplice::Source& source, Finish finish) noexcept
    {
        const float match = source.hasWindow() ? finish.match : 1.0f;
        if (isFirst)
        {
            mixRamp.jumpTo(mixNow[0]);
            gainRamp.jumpTo(gainNow[0]);
            matchRamp.jumpTo(match);
            isFirst = false;
        }
        splice.render(source, {wet[0].data(), wet[1].data()}, run);
        measure(audio, run, source);
        for (std::size_t i = 0; i < run; ++i)
        {
            const Level level{mixRamp.next(mixNow[i]), gainRamp.next(gainNow[i])};
            const float matched = matchRamp.next(match);
            for (std::size_t ch = 0; ch < 2; ++ch)
                audio[ch][i] = blend(audio[ch][i], matched == 1.0f ? wet[ch][i] : wet[ch][i] * matched, level);
        }
        if (finish.limit)
            limiter.process(audio, run);
        telemetry.meters.output.measure({audio[0], audio[1]}, run, rate);
    }

private:
    static constexpr int kRampsPerSecond = 200;     // mix and gain glide over 5 ms
    static constexpr int kTakeFadesPerSecond = 100; // one take fades into another over 10 ms

    static float decibels(float value) noexcept { return std::pow(10.0f, value / 20.0f); }

    /// No arithmetic touches the bits where the result is one of the inputs.
    static float blend(float dry, float wet, Level level) noexcept
    {
        const float blended = level.mix == 0.0f ? dry : level.mix == 1.0f ? wet : dry + level.mix * (wet - dry);
        return level.gain == 1.0f ? blended : blended * level.gain;
    }

    void measure(std::array<float*, 2> audio, std::size_t run, const WetSplice::Source& source) noexcept
    {
        const std::array<const float*, 2> dry{audio[0], audio[1]}, wetNow{wet[0].data(), wet[1].data()};
        telemetry.meters.dry.measure(dry, run, rate);
        telemetry.meters.wet.measure(wetNow, run, rate);
        if (!source.hasWindow())
            return;
        loudness.measure(dry, wetNow, run);
        telemetry.suggestedMatchDb.store(loudness.suggestedDb(), std::memory_order_relaxed);
    }

    DelayLine left, right, mixes, gains;
    Ramp mixRamp, gainRamp, matchRamp;
    WetSplice splice;
    Limiter limiter;
    LoudnessMatch loudness;
    float rate;
    Telemetry& telemetry;
    bool isFirst = true;
    std::array<float, kMaxRun> mixNow{}, gainNow{};
    std::array<std::array<float, kMaxRun>, 2> wet{};
};
} // namespace demon
