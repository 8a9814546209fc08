// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <optional>

#include "CurveCaret.h"
#include "Models.h"
#include "Theme.h"
#include "TimelineGeometry.h"

namespace demon
{
/// What the timeline shows at one moment.
struct TimelinePicture
{
    TimelineGeometry geometry;
    std::int64_t first = 0; ///< frame of frames[0]
    std::vector<TimelineFrame> frames;
    double playhead = 0.0;
    std::size_t lane = 0;
    LoopView clip;
    std::vector<float> drawn;                   ///< the lane's curve over the clip; NaN where it is not drawn
    std::optional<CurveCaret::Range> selection; ///< of the keyboard; frames of the clip
    juce::String invitation;                    ///< in place of waveforms while there are none
};

/// Paints one picture. Message thread.
class TimelinePainter
{
public:
    TimelinePainter(const TimelinePicture& shownPicture, const juce::AudioParameterFloat& shownLane,
                    const Palette& palette)
        : picture(shownPicture), parameter(shownLane), p(palette)
    {
    }

    void paint(juce::Graphics& graphics) const;

private:
    float yOf(float value) const { return picture.geometry.yOf(parameter.convertTo0to1(value)); }
    std::optional<float> drawnAt(std::int64_t frame) const;
    void paintRuler(juce::Graphics&) const;
    void paintWave(juce::Graphics&, juce::Rectangle<float> area, juce::Colour colour, bool generated) const;
    void paintStates(juce::Graphics&) const;
    void paintCurve(juce::Graphics&) const;
    void paintSelection(juce::Graphics&) const;
    void paintLabel(juce::Graphics&, juce::Rectangle<float> area, const juce::String& text, juce::Colour colour) const;
    void paintPlayhead(juce::Graphics&) const;

    const TimelinePicture& picture;
    const juce::AudioParameterFloat& parameter;
    const Palette& p;
};
} // namespace demon
