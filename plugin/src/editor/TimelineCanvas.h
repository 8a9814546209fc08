// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "CurveCaret.h"
#include "CurvePen.h"
#include "TimelinePainter.h"
#include "Widgets.h"

namespace demon
{
/// Source and generated waveform around the playhead, the state of the windows, and one lane, which can be drawn where
/// there is a clip: with the mouse (CurvePen) or by keys (CurveCaret). Repaints as a whole only when it scrolls; else
/// the playhead's columns and what has changed.
class TimelineCanvas : public juce::Component, public juce::SettableTooltipClient
{
public:
    TimelineCanvas(Editing& editing, TimelineModel& timeline, LoopModel* loop);
    void refresh(); ///< 30 times a second
    void setTool(DrawTool wanted);
    void zoom(double factor);

    bool canDraw() const;
    juce::String describeCaret() const;       ///< "Denoise 60 % at 3.20 s, ..."
    void typeValue(const juce::String& text); ///< for what is selected; nothing when it is no value

    void paint(juce::Graphics&) override;
    void resized() override { hasMoved = true; }
    void lookAndFeelChanged() override { hasMoved = true; }
    void mouseDown(const juce::MouseEvent&) override;
    void mouseDrag(const juce::MouseEvent&) override;
    void mouseUp(const juce::MouseEvent&) override;
    void mouseWheelMove(const juce::MouseEvent&, const juce::MouseWheelDetails&) override;
    bool keyPressed(const juce::KeyPress&) override;
    void focusGained(FocusChangeType) override { focusChanged(); }
    void focusLost(FocusChangeType) override { focusChanged(); }
    std::unique_ptr<juce::AccessibilityHandler> createAccessibilityHandler() override;

private:
    void follow();
    void focusChanged();
    CurvePen::Place placeOf(juce::Point<float> position) const;

    Editing& editing;
    TimelineModel& timeline;
    LoopModel* const loop;
    CurvePen pen;
    CurveCaret caret;
    DrawTool tool = DrawTool::none;
    TimelinePicture picture;
    std::int64_t seenRevision = -1;
    bool hasMoved = true; ///< or looks different: all of it is to be painted
};
} // namespace demon
