// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace demon
{
/// Which rendering of the source a window belongs to. `take` is the number of the generation in a loop, else 0.
struct TakeId
{
    std::int32_t epoch = 0;
    std::int32_t take = 0;
    bool operator==(const TakeId& other) const noexcept { return epoch == other.epoch && take == other.take; }
    bool operator!=(const TakeId& other) const noexcept { return !(*this == other); }
};

/// Joins windows and their replacement into one wet signal without clicks.
///
///   window -> window         exact, also from one run to the next
///   take -> another take     inside a run a linear crossfade over the take fade, if the old take is still at hand and
///                            nothing else is fading; else the jump at the seam is spread: an offset that decays
///                            linearly over the same time
///   replacement -> window    at a run's start exact; inside a run a linear crossfade over kFadeSamples
///   window -> replacement    the jump at the seam is spread over kFadeSamples
///   replacement -> another   likewise (the dry signal gives way to silence, or silence to it)
///
/// Audio thread only; real-time safe. Works sample by sample: the result does not depend on how the signal is chunked.
class WetSplice
{
public:
    static constexpr int kFadeSamples = 128;

    /// `takeFadeSamples` > 0: how long one take fades into another; at most one frame.
    explicit WetSplice(int takeFadeSamples = kFadeSamples) : takeFade(takeFadeSamples) {}

    void reset() noexcept { *this = WetSplice(takeFade); }

    /// What there is to play. `window` is null where there is no window; `before` is the same place in the take that
    /// `beforeTake` names, or null; `replacement` is always there, and `replacementIsSilence` tells the two kinds of it
    /// apart. `run` names the unbroken run over the timeline (0: none).
    struct Source
    {
        std::int32_t run = 0;
        bool replacementIsSilence = false;
        TakeId take, beforeTake;
        std::array<const float*, 2> window{};
        std::array<const float*, 2> before{};
        std::array<const float*, 2> replacement{};
        bool hasWindow() const noexcept { return window[0] != nullptr; }
    };

    /// Writes `count` samples of the wet signal.
    void render(const Source& source, std::array<float*, 2> out, std::size_t count) noexcept
    {
        if (count == 0)
            return;
        chooseFade(source);
        for (std::size_t ch = 0; ch < 2; ++ch)
        {
            int left = remaining;
            for (std::size_t i = 0; i<count; ++i, left -= left> 0 ? 1 : 0)
                out[ch][i] = sampleAt(source, ch, i, static_cast<float>(left) / static_cast<float>(length));
            lastWet[ch] = out[ch][count - 1];
        }
        remaining -= static_cast<int>(std::min<std::size_t>(count, static_cast<std::size_t>(remaining)));
        lastHadWindow = source.hasWindow();
        lastWasSilence = source.replacementIsSilence;
        lastRun = source.run;
        lastTake = source.take;
    }

private:
    enum class Fade
    {
        offset,          ///< of the jump at the seam
        fromReplacement, ///< to the window
        fromBefore       ///< the take before, to the window
    };

    void chooseFade(const Source& source) noexcept
    {
        if (source.hasWindow())
            return chooseFadeToWindow(source);
        if (lastHadWindow || source.replacementIsSilence != lastWasSilence)
            spreadJump(source.replacement, kFadeSamples);
    }

    void chooseFadeToWindow(const Source& source) noexcept
    {
        if (source.run != lastRun)
            remaining = 0;
        else if (!lastHadWindow && remaining > 0)
            spreadJump(source.window, kFadeSamples);
        else if (!lastHadWindow)
            start(Fade::fromReplacement, kFadeSamples);
        else if (source.take != lastTake && remaining == 0 && hasBefore(source, lastTake))
        {
            fadesFrom = lastTake;
            start(Fade::fromBefore, takeFade);
        }
        else if (source.take != lastTake || isCutOff(source))
            spreadJump(source.window, takeFade);
    }

    /// A fade from the take before has come to a frame that the take does not have.
    bool isCutOff(const Source& source) const noexcept
    {
        return remaining > 0 && fade == Fade::fromBefore && !hasBefore(source, fadesFrom);
    }

    static bool hasBefore(const Source& source, TakeId take) noexcept
    {
        return source.before[0] != nullptr && source.beforeTake == take;
    }

    void start(Fade kind, int samples) noexcept
    {
        fade = kind;
        remaining = length = samples;
    }

    void spreadJump(const std::array<const float*, 2>& next, int samples) noexcept
    {
        start(Fade::offset, samples);
        for (std::size_t ch = 0; ch < 2; ++ch)
            offset[ch] = lastWet[ch] - next[ch][0];
    }

    /// `share` falls from 1 to 0 over the fade; 0 is no fade, and then the source's bits come out.
    float sampleAt(const Source& source, std::size_t ch, std::size_t i, float share) const noexcept
    {
        const float plain = source.hasWindow() ? source.window[ch][i] : source.replacement[ch][i];
        if (share == 0.0f)
            return plain;
        switch (fade)
        {
        case Fade::fromReplacement:
            return plain + share * (source.replacement[ch][i] - plain);
        case Fade::fromBefore:
            return plain + share * (source.before[ch][i] - plain);
        case Fade::offset:
            break;
        }
        return plain + share * offset[ch];
    }

    int takeFade;
    Fade fade = Fade::offset;
    int length = kFadeSamples; ///< of the fade in progress
    int remaining = 0;         ///< samples of it
    TakeId fadesFrom;
    std::array<float, 2> offset{};
    std::array<float, 2> lastWet{};
    bool lastHadWindow = false;
    bool lastWasSilence = false;
    std::int32_t lastRun = 0;
    TakeId lastTake;
};
} // namespace demon
