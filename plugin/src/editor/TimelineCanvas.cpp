// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TimelineCanvas.h"

#include <algorithm>
#include <cmath>

#include "../LaneText.h"

namespace demon
{
namespace
{
constexpr double kPlayheadAt = 0.72; // of the width: what comes is in flight, what was is to be looked at
constexpr double kFrames = kFramesPerSecond;

juce::Colour colourOf(WindowState state, const Palette& p)
{
    switch (state)
    {
    case WindowState::ready:
        return p.ready;
    case WindowState::inFlight:
        return p.inFlight;
    case WindowState::late:
        return p.late;
    case WindowState::waiting:
        return p.waiting;
    case WindowState::stale:
        return p.stale;
    case WindowState::dry:
        return p.source.withAlpha(0.35f);
    case WindowState::none:
        break;
    }
    return juce::Colours::transparentBlack;
}

juce::String clock(double seconds)
{
    const bool isNegative = seconds < 0.0;
    const double positive = std::abs(seconds);
    const int minutes = static_cast<int>(positive / 60.0);
    const double rest = positive - 60.0 * minutes;
    return juce::String(isNegative ? "-" : "") + juce::String(minutes) + ":" + (rest < 10.0 ? "0" : "") +
           juce::String(rest, std::abs(rest - std::round(rest)) < 1e-6 ? 0 : 1);
}
} // namespace

TimelineCanvas::TimelineCanvas(Editing& edits, TimelineModel& model, LoopModel* loopModel)
    : editing(edits), timeline(model), loop(loopModel)
{
    setTitle("Timeline");
    setOpaque(false);
}

TimelineCanvas::Areas TimelineCanvas::areas() const
{
    auto area = getLocalBounds().toFloat();
    Areas a;
    a.ruler = area.removeFromTop(18.0f);
    area.removeFromBottom(2.0f);
    const float height = area.getHeight();
    a.source = area.removeFromTop(height * 0.28f).reduced(0.0f, 2.0f);
    a.generated = area.removeFromTop(height * 0.28f).reduced(0.0f, 2.0f);
    a.states = area.removeFromTop(9.0f).reduced(0.0f, 1.5f);
    area.removeFromTop(4.0f);
    a.curve = area;
    return a;
}

float TimelineCanvas::xOf(double frame) const { return static_cast<float>((frame - left) / span * getWidth()); }

double TimelineCanvas::frameAt(float x) const { return left + span * static_cast<double>(x) / std::max(1, getWidth()); }

float TimelineCanvas::yOf(float value) const
{
    const auto area = areas().curve.reduced(0.0f, 4.0f);
    return area.getBottom() - area.getHeight() * editing.lanes[lane].convertTo0to1(value);
}

float TimelineCanvas::valueAt(float y) const
{
    const auto area = areas().curve.reduced(0.0f, 4.0f);
    return editing.lanes[lane].convertFrom0to1(
        juce::jlimit(0.0f, 1.0f, (area.getBottom() - y) / std::max(1.0f, area.getHeight())));
}

bool TimelineCanvas::canDraw() const
{
    return clip.frames > 0 && clip.state == ClipState::ready && kLanes[lane].laneClass != LaneClass::output;
}

void TimelineCanvas::setTool(DrawTool wanted)
{
    tool = wanted;
    setMouseCursor(tool == DrawTool::none ? juce::MouseCursor::NormalCursor : juce::MouseCursor::CrosshairCursor);
}

/// Puts the view around the playhead; a clip that fits stands still.
void TimelineCanvas::follow()
{
    span = editing.editor.get().timelineSeconds * kFrames;
    playhead = timeline.playhead();
    double wanted = playhead - kPlayheadAt * span;
    if (clip.frames > 0)
    {
        const auto begin = static_cast<double>(clip.first), length = static_cast<double>(clip.frames);
        if (length <= span)
            span = length, wanted = begin;
        else
            wanted = juce::jlimit(begin, begin + length - span, playhead - 0.5 * span);
    }
    const double framesPerPixel = span / std::max(1, getWidth());
    wanted = std::round(wanted / framesPerPixel) * framesPerPixel; // whole pixels, so that waves do not shimmer
    if (std::abs(wanted - left) > 1e-9)
        hasMoved = true;
    left = wanted;
}

void TimelineCanvas::refresh()
{
    if (loop != nullptr)
        clip = loop->view();
    const double before = playhead, spanBefore = span;
    follow();
    const std::size_t wantedLane = editing.editor.get().shownLane;
    const auto wantedFirst = static_cast<std::int64_t>(std::floor(left));
    const auto count = static_cast<std::size_t>(std::ceil(span)) + 2;
    std::vector<float> curve = clip.frames > 0 ? editing.drawn.curve(wantedLane) : std::vector<float>();
    const bool hasCurveChanged =
        curve.size() != drawn.size() ||
        !std::equal(curve.begin(), curve.end(), drawn.begin(),
                    [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); });
    const bool isNew =
        seenRevision != timeline.revision() || wantedFirst != first || count != frames.size() || wantedLane != lane;
    if (isNew)
    {
        seenRevision = timeline.revision();
        first = wantedFirst;
        lane = wantedLane;
        frames.assign(count, {});
        timeline.read(first, lane, frames);
    }
    drawn = std::move(curve);
    if (std::exchange(hasMoved, false) || isNew || hasCurveChanged || span != spanBefore)
        return repaint();
    if (before != playhead)
        for (const double frame : {before, playhead})
            repaint(static_cast<int>(xOf(frame)) - 6, 0, 13, getHeight());
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

// --- drawing ---------------------------------------------------------------------------------------------------------

void TimelineCanvas::mouseDown(const juce::MouseEvent& event)
{
    if (tool == DrawTool::none || !canDraw() || event.mods.isPopupMenu() ||
        !areas().curve.expanded(0.0f, 4.0f).contains(event.position))
        return;
    isStroking = true;
    strokeFrom = strokeLast = event.position;
    strokeFirst = clip.frames;
    strokeEnd = 0;
    beforeLine = editing.drawn.curve(lane);
    editing.drawn.beginStroke(lane);
    drawTo(event.position);
}

void TimelineCanvas::mouseDrag(const juce::MouseEvent& event)
{
    if (isStroking)
        drawTo(event.position);
}

void TimelineCanvas::mouseUp(const juce::MouseEvent&)
{
    if (!std::exchange(isStroking, false))
        return;
    if (tool == DrawTool::smooth)
        smoothStroke();
    editing.drawn.endStroke();
    refresh();
}

void TimelineCanvas::drawStraight(double fromFrame, float fromValue, double toFrame, float toValue)
{
    if (fromFrame > toFrame)
    {
        std::swap(fromFrame, toFrame);
        std::swap(fromValue, toValue);
    }
    const auto begin =
        std::clamp(static_cast<std::int64_t>(std::floor(fromFrame)) - clip.first, std::int64_t{0}, clip.frames - 1);
    const auto end =
        std::clamp(static_cast<std::int64_t>(std::floor(toFrame)) - clip.first, begin, clip.frames - 1) + 1;
    std::vector<float> values;
    for (std::int64_t frame = begin; frame < end; ++frame)
    {
        const double at = static_cast<double>(frame + clip.first) + 0.5;
        const double share =
            toFrame > fromFrame ? juce::jlimit(0.0, 1.0, (at - fromFrame) / (toFrame - fromFrame)) : 1.0;
        values.push_back(fromValue + static_cast<float>(share) * (toValue - fromValue));
    }
    strokeFirst = std::min(strokeFirst, begin);
    strokeEnd = std::max(strokeEnd, end);
    editing.drawn.draw(lane, begin, values);
}

void TimelineCanvas::drawTo(juce::Point<float> position)
{
    const double from = frameAt(strokeLast.x), to = frameAt(position.x);
    switch (tool)
    {
    case DrawTool::smooth:
        drawStraight(from, valueAt(strokeLast.y), to, valueAt(position.y));
        break;
    case DrawTool::line:
        if (strokeEnd > strokeFirst) // the line so far gives way to the new one
        {
            beforeLine.resize(static_cast<std::size_t>(
                                  std::max<std::int64_t>(strokeEnd, static_cast<std::int64_t>(beforeLine.size()))),
                              std::numeric_limits<float>::quiet_NaN());
            editing.drawn.draw(lane, strokeFirst,
                               {beforeLine.begin() + static_cast<std::ptrdiff_t>(strokeFirst),
                                beforeLine.begin() + static_cast<std::ptrdiff_t>(strokeEnd)});
        }
        strokeFirst = clip.frames;
        strokeEnd = 0;
        drawStraight(frameAt(strokeFrom.x), valueAt(strokeFrom.y), to, valueAt(position.y));
        break;
    case DrawTool::step:
    {
        const auto stairOf = [&](double frame)
        { return static_cast<std::int64_t>(std::floor((frame - static_cast<double>(clip.first)) / kStepFrames)); };
        const std::int64_t start = stairOf(from), end = stairOf(to), way = end >= start ? 1 : -1;
        for (std::int64_t stair = start;; stair += way) // a fast hand skips none
        {
            const float share =
                end == start ? 1.0f : static_cast<float>(stair - start) / static_cast<float>(end - start);
            const float value = valueAt(strokeLast.y + share * (position.y - strokeLast.y));
            const auto begin = static_cast<double>(clip.first + stair * kStepFrames);
            if (stair >= 0 && stair * kStepFrames < clip.frames)
                drawStraight(begin, value, begin + static_cast<double>(kStepFrames) - 1.0, value);
            if (stair == end)
                break;
        }
        break;
    }
    case DrawTool::erase:
    {
        const auto begin = static_cast<std::int64_t>(std::floor(std::min(from, to))) - clip.first;
        const auto end = static_cast<std::int64_t>(std::floor(std::max(from, to))) - clip.first + 1;
        editing.drawn.erase(lane, std::max<std::int64_t>(0, begin), std::min(clip.frames, end));
        break;
    }
    case DrawTool::none:
        break;
    }
    strokeLast = position;
    refresh();
}

/// Two passes of a short mean over what the hand has drawn; its ends stay.
void TimelineCanvas::smoothStroke()
{
    constexpr int radius = 3;
    std::vector<float> curve = editing.drawn.curve(lane);
    const auto begin = static_cast<std::ptrdiff_t>(strokeFirst);
    const auto end = std::min(static_cast<std::ptrdiff_t>(strokeEnd), static_cast<std::ptrdiff_t>(curve.size()));
    if (end - begin < 3)
        return;
    std::vector<float> values(curve.begin() + begin, curve.begin() + end);
    for (int pass = 0; pass < 2; ++pass)
    {
        const std::vector<float> old = values;
        const int count = static_cast<int>(old.size());
        for (int i = 1; i + 1 < count; ++i)
        {
            const int reach = std::min({radius, i, count - 1 - i});
            float sum = 0.0f;
            for (int j = i - reach; j <= i + reach; ++j)
                sum += old[static_cast<std::size_t>(j)];
            values[static_cast<std::size_t>(i)] = sum / static_cast<float>(2 * reach + 1);
        }
    }
    editing.drawn.draw(lane, strokeFirst, values);
}

// --- painting --------------------------------------------------------------------------------------------------------

void TimelineCanvas::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    const Areas a = areas();
    graphics.setColour(p.well);
    graphics.fillRoundedRectangle(getLocalBounds().toFloat().withTrimmedTop(a.ruler.getHeight()), metrics::corner);
    juce::Graphics::ScopedSaveState state(graphics);
    graphics.reduceClipRegion(getLocalBounds());
    paintRuler(graphics, p);
    const bool isEmpty =
        std::all_of(frames.begin(), frames.end(), [](const TimelineFrame& f) { return f.state == WindowState::none; });
    graphics.setColour(p.outline.withAlpha(0.6f));
    graphics.fillRect(a.source.withHeight(1.0f).withY(a.source.getCentreY()));
    graphics.fillRect(a.generated.withHeight(1.0f).withY(a.generated.getCentreY()));
    paintWave(graphics, a.source, p.source, false);
    paintWave(graphics, a.generated, p.generated, true);
    paintStates(graphics, p);
    paintCurve(graphics, p);
    graphics.setFont(uiFont(metrics::smallSize));
    const auto label = [&](juce::Rectangle<float> area, const juce::String& text, juce::Colour colour)
    {
        const auto box = area.reduced(6.0f, 1.0f)
                             .removeFromTop(16.0f)
                             .withWidth(uiFont(metrics::smallSize).getStringWidthFloat(text) + 8.0f);
        graphics.setColour(p.well.withAlpha(0.85f));
        graphics.fillRoundedRectangle(box, 3.0f);
        graphics.setColour(colour);
        graphics.drawText(text, box, juce::Justification::centred);
    };
    label(a.source, "Source", p.source);
    label(a.generated, "Generated", p.generated);
    const LaneInfo& info = kLanes[lane];
    label(a.curve, juce::String::fromUTF8(info.name) + "  " + laneText::text(info, editing.lanes[lane].get()), p.curve);
    if (isEmpty)
        paintEmpty(graphics, p);
    else
    {
        const float x = std::round(xOf(playhead));
        graphics.setColour(p.text);
        graphics.fillRect(x, a.ruler.getBottom() - 4.0f, 1.5f, static_cast<float>(getHeight()));
        juce::Path head;
        head.addTriangle(x - 4.5f, a.ruler.getBottom() - 8.0f, x + 6.0f, a.ruler.getBottom() - 8.0f, x + 0.75f,
                         a.ruler.getBottom() - 1.0f);
        graphics.fillPath(head);
    }
}

void TimelineCanvas::paintEmpty(juce::Graphics& graphics, const Palette& p) const
{
    const Areas a = areas();
    graphics.setColour(p.dimText);
    graphics.setFont(uiFont());
    graphics.drawFittedText(loop != nullptr && clip.state == ClipState::empty && clip.limitSeconds > 0.0
                                ? "Capture a clip by playing, or drop an audio file here"
                                : "Play: the source and what the engine makes of it appear here",
                            a.source.getUnion(a.generated).toNearestInt(), juce::Justification::centred, 2);
}

void TimelineCanvas::paintRuler(juce::Graphics& graphics, const Palette& p) const
{
    const Areas a = areas();
    const double seconds = span / kFrames;
    double step = 0.5;
    for (const double candidate : {0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0})
    {
        step = candidate;
        if (seconds / step * 64.0 < getWidth())
            break;
    }
    graphics.setFont(uiFont(11.5f));
    const double begin = left / kFrames;
    for (double t = std::ceil(begin / step) * step; t < begin + seconds; t += step)
    {
        const float x = std::round(xOf(t * kFrames));
        graphics.setColour(p.outline.withAlpha(0.45f));
        graphics.fillRect(x, a.ruler.getBottom(), 1.0f, static_cast<float>(getHeight()) - a.ruler.getBottom());
        graphics.setColour(p.dimText);
        graphics.drawText(clock(t), juce::Rectangle<float>(x + 4.0f, 0.0f, 60.0f, a.ruler.getHeight() - 3.0f),
                          juce::Justification::centredLeft, false);
    }
}

void TimelineCanvas::paintWave(juce::Graphics& graphics, juce::Rectangle<float> area, juce::Colour colour,
                               bool generated) const
{
    const float half = area.getHeight() / 2.0f, middle = area.getCentreY();
    const auto flush = [&](juce::Path& upper, std::vector<juce::Point<float>>& lower)
    {
        if (!lower.empty())
        {
            for (auto point = lower.rbegin(); point != lower.rend(); ++point)
                upper.lineTo(*point);
            upper.closeSubPath();
            graphics.fillPath(upper);
        }
        upper.clear();
        lower.clear();
    };
    graphics.setColour(colour);
    juce::Path upper;
    std::vector<juce::Point<float>> lower;
    const float width = static_cast<float>(getWidth() / span);
    for (std::size_t i = 0; i < frames.size(); ++i)
    {
        const TimelineFrame& f = frames[i];
        const bool isThere = f.state != WindowState::none &&
                             (!generated || (f.state != WindowState::waiting && f.state != WindowState::inFlight));
        if (!isThere)
        {
            flush(upper, lower);
            continue;
        }
        const float x = xOf(static_cast<double>(first) + static_cast<double>(i)) + 0.5f * width;
        const float high = juce::jlimit(0.0f, 1.0f, generated ? f.generatedHigh : f.sourceHigh);
        const float low = juce::jlimit(0.0f, 1.0f, -(generated ? f.generatedLow : f.sourceLow));
        const juce::Point<float> top(x, middle - std::max(0.5f, high * half)),
            bottom(x, middle + std::max(0.5f, low * half));
        if (lower.empty())
            upper.startNewSubPath(top);
        else
            upper.lineTo(top);
        lower.push_back(bottom);
    }
    flush(upper, lower);
}

/// Each state has a colour and a shape of its own: full, hollow, hatched.
void TimelineCanvas::paintStates(juce::Graphics& graphics, const Palette& p) const
{
    const Areas a = areas();
    for (std::size_t i = 0; i < frames.size();)
    {
        std::size_t end = i + 1;
        while (end < frames.size() && frames[end].state == frames[i].state)
            ++end;
        const WindowState window = frames[i].state;
        const float x = xOf(static_cast<double>(first) + static_cast<double>(i));
        const float right = xOf(static_cast<double>(first) + static_cast<double>(end));
        const auto bar = a.states.withLeft(x).withRight(right);
        graphics.setColour(colourOf(window, p));
        if (window == WindowState::inFlight || window == WindowState::waiting)
            graphics.drawRect(bar.reduced(0.5f), 1.25f);
        else
            graphics.fillRect(bar);
        if (window == WindowState::inFlight || window == WindowState::late || window == WindowState::stale)
        {
            juce::Graphics::ScopedSaveState saved(graphics);
            graphics.reduceClipRegion(bar.toNearestInt());
            graphics.setColour(window == WindowState::inFlight ? p.inFlight : p.well);
            const float slant = window == WindowState::late ? -6.0f : 6.0f;
            for (float at = std::floor(std::max(x, -8.0f) / 6.0f) * 6.0f;
                 at < std::min(right, static_cast<float>(getWidth())) + 8.0f; at += 6.0f)
                graphics.drawLine(at, bar.getBottom(), at + slant, bar.getY(), 1.25f);
        }
        i = end;
    }
}

void TimelineCanvas::paintCurve(juce::Graphics& graphics, const Palette& p) const
{
    const Areas a = areas();
    graphics.setColour(p.outline.withAlpha(0.5f));
    graphics.fillRect(a.curve.withHeight(1.0f));
    const float rest = yOf(kLanes[lane].defaultValue);
    const float dash[] = {3.0f, 4.0f};
    graphics.setColour(p.dimText.withAlpha(0.5f));
    graphics.drawDashedLine({0.0f, rest, static_cast<float>(getWidth()), rest}, dash, 2, 1.0f);

    juce::Path line, fill;
    bool isOpen = false;
    float lastX = 0.0f;
    const float floorY = a.curve.getBottom();
    const auto close = [&]
    {
        if (isOpen)
        {
            fill.lineTo(lastX, floorY);
            fill.closeSubPath();
        }
        isOpen = false;
    };
    juce::Path handDrawn;
    bool isDrawing = false;
    for (std::size_t i = 0; i < frames.size(); ++i)
    {
        const std::int64_t frame = first + static_cast<std::int64_t>(i), inClip = frame - clip.first;
        const bool isDrawn = clip.frames > 0 && inClip >= 0 && inClip < static_cast<std::int64_t>(drawn.size()) &&
                             !std::isnan(drawn[static_cast<std::size_t>(inClip)]);
        std::optional<float> value = frames[i].lane;
        if (isDrawn)
            value = drawn[static_cast<std::size_t>(inClip)];
        const float x = xOf(static_cast<double>(frame)), right = xOf(static_cast<double>(frame) + 1.0);
        if (!value)
        {
            close();
            isDrawing = false;
            continue;
        }
        const float y = yOf(*value);
        if (!isOpen)
        {
            line.startNewSubPath(x, y);
            fill.startNewSubPath(x, floorY);
        }
        line.lineTo(x, y);
        line.lineTo(right, y);
        fill.lineTo(x, y);
        fill.lineTo(right, y);
        if (isDrawn)
        {
            if (isDrawing)
                handDrawn.lineTo(x, y);
            else
                handDrawn.startNewSubPath(x, y);
            handDrawn.lineTo(right, y);
        }
        isDrawing = isDrawn;
        isOpen = true;
        lastX = right;
    }
    close();
    graphics.setColour(p.curve.withAlpha(0.13f));
    graphics.fillPath(fill);
    graphics.setColour(p.curve.withAlpha(handDrawn.isEmpty() ? 1.0f : 0.55f));
    graphics.strokePath(line, juce::PathStrokeType(1.5f));
    graphics.setColour(p.curve);
    graphics.strokePath(handDrawn, juce::PathStrokeType(2.5f, juce::PathStrokeType::curved));
}

std::unique_ptr<juce::AccessibilityHandler> TimelineCanvas::createAccessibilityHandler()
{
    return std::make_unique<juce::AccessibilityHandler>(*this, juce::AccessibilityRole::image);
}
} // namespace demon
