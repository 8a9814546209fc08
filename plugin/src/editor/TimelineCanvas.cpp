// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TimelineCanvas.h"

#include <algorithm>
#include <cmath>

#include "../LaneText.h"
#include "TimelinePainter.h"

namespace demon
{
namespace
{
constexpr double kPlayheadAt = 0.72; // of the width: what comes is in flight, what was is to be looked at
constexpr double kFrames = kFramesPerSecond;

bool sameCurve(const std::vector<float>& one, const std::vector<float>& other)
{
    return std::equal(one.begin(), one.end(), other.begin(), other.end(),
                      [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); });
}

/// What a screen reader says of the curve: the caret's time and value; it may be given a value, as text.
class CurveAsText : public juce::AccessibilityTextValueInterface
{
public:
    explicit CurveAsText(TimelineCanvas& shownCanvas) : canvas(shownCanvas) {}
    bool isReadOnly() const override { return !canvas.canDraw(); }
    juce::String getCurrentValueAsString() const override { return canvas.describeCaret(); }
    void setValueAsString(const juce::String& text) override { canvas.typeValue(text); }

private:
    TimelineCanvas& canvas;
};
} // namespace

TimelineCanvas::TimelineCanvas(Editing& edits, TimelineModel& model, LoopModel* loopModel)
    : editing(edits), timeline(model), loop(loopModel), pen(edits), caret(edits)
{
    setTitle("Timeline");
    setTooltip(
        "In Loop the shown lane is drawn here: with a tool, or by keys: left and right go along the clip (Alt: by "
        "frames, Shift: select), up and down change the value, Enter types it, L makes a line, Delete gives the "
        "lane back to the host");
    setHasFocusOutline(true);
    caret.valueUnderneath = [this](std::int64_t frame)
    {
        std::vector<TimelineFrame> one(1);
        timeline.read(picture.clip.first + frame, picture.lane, one);
        return one[0].lane.value_or(editing.lanes[picture.lane].get());
    };
}

bool TimelineCanvas::canDraw() const
{
    const LoopView& clip = picture.clip;
    return clip.frames > 0 && clip.state == ClipState::ready && kLanes[picture.lane].laneClass != LaneClass::output;
}

void TimelineCanvas::setTool(DrawTool wanted)
{
    tool = wanted;
    setMouseCursor(tool == DrawTool::none ? juce::MouseCursor::NormalCursor : juce::MouseCursor::CrosshairCursor);
}

/// Puts the view around the playhead; a clip that fits stands still.
void TimelineCanvas::follow()
{
    double span = editing.editor.get().timelineSeconds * kFrames;
    picture.playhead = timeline.playhead();
    double wanted = picture.playhead - kPlayheadAt * span;
    if (picture.clip.frames > 0)
    {
        const auto begin = static_cast<double>(picture.clip.first), length = static_cast<double>(picture.clip.frames);
        if (length <= span)
            span = length, wanted = begin;
        else
            wanted = juce::jlimit(begin, begin + length - span, picture.playhead - 0.5 * span);
    }
    const double framesPerPixel = span / std::max(1, getWidth());
    wanted = std::round(wanted / framesPerPixel) * framesPerPixel; // whole pixels, so that waves do not shimmer
    const bool moves = std::abs(wanted - picture.geometry.left) > 1e-9 || span != picture.geometry.span;
    if (moves || hasMoved)
        picture.geometry = {getLocalBounds().toFloat(), wanted, span};
    hasMoved = hasMoved || moves;
}

void TimelineCanvas::refresh()
{
    if (loop != nullptr)
        picture.clip = loop->view();
    picture.invitation = loop != nullptr && picture.clip.state == ClipState::empty && picture.clip.limitSeconds > 0.0
                             ? "Capture a clip by playing, or drop an audio file here"
                             : "Play: the source and what the engine makes of it appear here";
    const double before = picture.playhead;
    follow();
    const std::size_t wantedLane = editing.editor.get().shownLane;
    const auto wantedFirst = static_cast<std::int64_t>(std::floor(picture.geometry.left));
    const auto count = static_cast<std::size_t>(std::ceil(picture.geometry.span)) + 2;
    const bool isNew = seenRevision != timeline.revision() || wantedFirst != picture.first ||
                       count != picture.frames.size() || wantedLane != picture.lane;
    if (isNew)
    {
        seenRevision = timeline.revision();
        picture.first = wantedFirst;
        picture.lane = wantedLane;
        picture.frames.assign(count, {});
        timeline.read(picture.first, picture.lane, picture.frames);
    }
    std::vector<float> curve = picture.clip.frames > 0 ? editing.drawn.curve(picture.lane) : std::vector<float>();
    const bool hasCurveChanged = !sameCurve(curve, picture.drawn);
    picture.drawn = std::move(curve);
    caret.show(picture.lane, canDraw() ? picture.clip.frames : 0);
    picture.selection = hasKeyboardFocus(false) && canDraw() ? std::optional(caret.selection()) : std::nullopt;
    setWantsKeyboardFocus(canDraw());
    if (std::exchange(hasMoved, false) || isNew || hasCurveChanged)
        return repaint();
    if (before != picture.playhead)
        for (const double frame : {before, picture.playhead})
            repaint(static_cast<int>(picture.geometry.xOf(frame)) - 6, 0, 13, getHeight());
}

void TimelineCanvas::zoom(double factor)
{
    editing.editor.change([&](EditorState& state)
                          { state.timelineSeconds = juce::jlimit(2.0, 240.0, state.timelineSeconds * factor); });
    refresh();
}

void TimelineCanvas::mouseWheelMove(const juce::MouseEvent&, const juce::MouseWheelDetails& wheel)
{
    zoom(std::pow(2.0, -static_cast<double>(wheel.deltaY)));
}

// --- the mouse -------------------------------------------------------------------------------------------------------

CurvePen::Place TimelineCanvas::placeOf(juce::Point<float> position) const
{
    return {picture.geometry.frameAt(position.x) - static_cast<double>(picture.clip.first),
            picture.geometry.proportionAt(position.y)};
}

void TimelineCanvas::mouseDown(const juce::MouseEvent& event)
{
    if (tool == DrawTool::none || !canDraw() || event.mods.isPopupMenu() ||
        !picture.geometry.curve.expanded(0.0f, 4.0f).contains(event.position))
        return;
    caret.goTo(static_cast<std::int64_t>(placeOf(event.position).frame));
    pen.begin(tool, picture.lane, picture.clip.frames, placeOf(event.position));
    refresh();
}

void TimelineCanvas::mouseDrag(const juce::MouseEvent& event)
{
    if (!pen.isDrawing())
        return;
    pen.moveTo(placeOf(event.position));
    refresh();
}

void TimelineCanvas::mouseUp(const juce::MouseEvent&)
{
    pen.end();
    refresh();
}

// --- keys and screen readers -----------------------------------------------------------------------------------------

bool TimelineCanvas::keyPressed(const juce::KeyPress& key)
{
    if (!canDraw())
        return false;
    if (key == juce::KeyPress(juce::KeyPress::returnKey))
        askForText(*this, "Value of " + juce::String::fromUTF8(kLanes[picture.lane].name),
                   laneText::text(kLanes[picture.lane], caret.value()),
                   [canvas = juce::Component::SafePointer<TimelineCanvas>(this)](const juce::String& text)
                   {
                       if (canvas != nullptr)
                           canvas->typeValue(text);
                   });
    else if (!caret.keyPressed(key))
        return false;
    hasMoved = true; // the selection may be another one
    refresh();
    if (auto* handler = getAccessibilityHandler())
        handler->notifyAccessibilityEvent(juce::AccessibilityEvent::valueChanged);
    return true;
}

void TimelineCanvas::focusChanged()
{
    hasMoved = true;
    refresh();
}

void TimelineCanvas::typeValue(const juce::String& text)
{
    const auto value = laneText::value(kLanes[picture.lane], text);
    if (!value || !canDraw())
        return;
    caret.setValue(*value);
    refresh();
}

juce::String TimelineCanvas::describeCaret() const
{
    const LaneInfo& info = kLanes[picture.lane];
    if (!canDraw())
        return juce::String::fromUTF8(info.name);
    const auto seconds = [](std::int64_t frame) { return juce::String(static_cast<double>(frame) / kFrames, 2); };
    const CurveCaret::Range range = caret.selection();
    return juce::String::fromUTF8(info.name) + " " + laneText::text(info, caret.value()) + " at " +
           seconds(caret.frame()) + " s, " + seconds(range.first) + " to " + seconds(range.end) + " s selected";
}

std::unique_ptr<juce::AccessibilityHandler> TimelineCanvas::createAccessibilityHandler()
{
    return std::make_unique<juce::AccessibilityHandler>(
        *this, juce::AccessibilityRole::slider, juce::AccessibilityActions(),
        juce::AccessibilityHandler::Interfaces(std::make_unique<CurveAsText>(*this)));
}

// ---------------------------------------------------------------------------------------------------------------------

void TimelineCanvas::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    graphics.setColour(p.well);
    graphics.fillRoundedRectangle(getLocalBounds().toFloat().withTrimmedTop(picture.geometry.ruler.getHeight()),
                                  metrics::corner);
    juce::Graphics::ScopedSaveState state(graphics);
    graphics.reduceClipRegion(getLocalBounds());
    TimelinePainter(picture, editing.lanes[picture.lane], p).paint(graphics);
}
} // namespace demon
