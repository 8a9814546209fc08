// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Models.h"
#include "Widgets.h"

namespace demon
{
enum class DrawTool
{
    none,
    smooth,
    line,
    step,
    erase
};

/// Source and generated waveform around the playhead, the state of the windows, and one lane, which can be drawn where
/// there is a clip. Repaints as a whole only when it scrolls; else the playhead's columns and what has changed.
class TimelineCanvas : public juce::Component, public juce::SettableTooltipClient
{
public:
    static constexpr std::int64_t kStepFrames = 10; ///< the step tool's stairs, 0.4 s

    TimelineCanvas(Editing& editing, TimelineModel& timeline, LoopModel* loop);
    void refresh(); ///< 30 times a second
    void setTool(DrawTool wanted);

    void paint(juce::Graphics&) override;
    void resized() override { hasMoved = true; }
    void lookAndFeelChanged() override { hasMoved = true; }
    void mouseDown(const juce::MouseEvent&) override;
    void mouseDrag(const juce::MouseEvent&) override;
    void mouseUp(const juce::MouseEvent&) override;
    void mouseWheelMove(const juce::MouseEvent&, const juce::MouseWheelDetails&) override;
    void zoom(double factor);
    std::unique_ptr<juce::AccessibilityHandler> createAccessibilityHandler() override;

private:
    struct Areas
    {
        juce::Rectangle<float> ruler, source, generated, states, curve;
    };
    Areas areas() const;
    float xOf(double frame) const;
    double frameAt(float x) const;
    float yOf(float value) const;
    float valueAt(float y) const;
    bool canDraw() const;
    void follow();
    void drawTo(juce::Point<float> position);
    void drawStraight(double fromFrame, float fromValue, double toFrame, float toValue);
    void smoothStroke();

    void paintRuler(juce::Graphics&, const Palette&) const;
    void paintWave(juce::Graphics&, juce::Rectangle<float> area, juce::Colour colour, bool generated) const;
    void paintStates(juce::Graphics&, const Palette&) const;
    void paintCurve(juce::Graphics&, const Palette&) const;
    void paintEmpty(juce::Graphics&, const Palette&) const;

    Editing& editing;
    TimelineModel& timeline;
    LoopModel* const loop;
    LoopView clip;
    DrawTool tool = DrawTool::none;

    std::int64_t first = 0; ///< frame of frames[0]
    double left = 0.0;      ///< frame at the left edge
    double span = 300.0;    ///< frames across
    double playhead = 0.0;
    std::vector<TimelineFrame> frames;
    std::vector<float> drawn; ///< of the clip
    std::int64_t seenRevision = -1;
    std::size_t lane = 0;
    bool hasMoved = true;

    bool isStroking = false;
    juce::Point<float> strokeFrom, strokeLast;
    std::int64_t strokeFirst = 0, strokeEnd = 0; ///< frames of the clip that the stroke has touched
    std::vector<float> beforeLine;               ///< the curve before the line tool's stroke
};
} // namespace demon
