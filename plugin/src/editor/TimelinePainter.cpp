// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TimelinePainter.h"

#include <algorithm>
#include <cmath>

#include "../LaneText.h"

namespace demon
{
namespace
{
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

void TimelinePainter::paint(juce::Graphics& graphics) const
{
    const TimelineGeometry& a = picture.geometry;
    paintRuler(graphics);
    const bool isEmpty = std::all_of(picture.frames.begin(), picture.frames.end(),
                                     [](const TimelineFrame& f) { return f.state == WindowState::none; });
    graphics.setColour(p.outline.withAlpha(0.6f));
    graphics.fillRect(a.source.withHeight(1.0f).withY(a.source.getCentreY()));
    graphics.fillRect(a.generated.withHeight(1.0f).withY(a.generated.getCentreY()));
    paintWave(graphics, a.source, p.source, false);
    paintWave(graphics, a.generated, p.generated, true);
    paintStates(graphics);
    paintSelection(graphics);
    paintCurve(graphics);
    paintLabel(graphics, a.source, "Source", p.source);
    paintLabel(graphics, a.generated, "Generated", p.generated);
    const LaneInfo& info = kLanes[picture.lane];
    paintLabel(graphics, a.curve, juce::String::fromUTF8(info.name) + "  " + laneText::text(info, parameter.get()),
               p.curve);
    if (!isEmpty)
        return paintPlayhead(graphics);
    graphics.setColour(p.dimText);
    graphics.setFont(uiFont());
    graphics.drawFittedText(picture.invitation, a.source.getUnion(a.generated).toNearestInt(),
                            juce::Justification::centred, 2);
}

void TimelinePainter::paintLabel(juce::Graphics& graphics, juce::Rectangle<float> area, const juce::String& text,
                                 juce::Colour colour) const
{
    const juce::Font font = uiFont(metrics::smallSize);
    const auto box = area.reduced(6.0f, 1.0f).removeFromTop(16.0f).withWidth(font.getStringWidthFloat(text) + 8.0f);
    graphics.setFont(font);
    graphics.setColour(p.well.withAlpha(0.85f));
    graphics.fillRoundedRectangle(box, 3.0f);
    graphics.setColour(colour);
    graphics.drawText(text, box, juce::Justification::centred);
}

void TimelinePainter::paintPlayhead(juce::Graphics& graphics) const
{
    const TimelineGeometry& a = picture.geometry;
    const float x = std::round(a.xOf(picture.playhead));
    graphics.setColour(p.text);
    graphics.fillRect(x, a.ruler.getBottom() - 4.0f, 1.5f, a.curve.getBottom());
    juce::Path head;
    head.addTriangle(x - 4.5f, a.ruler.getBottom() - 8.0f, x + 6.0f, a.ruler.getBottom() - 8.0f, x + 0.75f,
                     a.ruler.getBottom() - 1.0f);
    graphics.fillPath(head);
}

/// The value that the hand has drawn for a frame of the timeline.
std::optional<float> TimelinePainter::drawnAt(std::int64_t frame) const
{
    const std::int64_t inClip = frame - picture.clip.first;
    if (picture.clip.frames <= 0 || inClip < 0 || inClip >= static_cast<std::int64_t>(picture.drawn.size()) ||
        std::isnan(picture.drawn[static_cast<std::size_t>(inClip)]))
        return {};
    return picture.drawn[static_cast<std::size_t>(inClip)];
}

void TimelinePainter::paintSelection(juce::Graphics& graphics) const
{
    if (!picture.selection)
        return;
    const TimelineGeometry& a = picture.geometry;
    const auto x = [&](std::int64_t frame) { return a.xOf(static_cast<double>(frame + picture.clip.first)); };
    const auto area = a.curve.withLeft(x(picture.selection->first)).withRight(x(picture.selection->end));
    graphics.setColour(p.accent.withAlpha(0.18f));
    graphics.fillRect(area);
    graphics.setColour(p.accent);
    graphics.drawRect(area.expanded(0.5f, 0.0f), 1.25f);
}

void TimelinePainter::paintRuler(juce::Graphics& graphics) const
{
    const TimelineGeometry& a = picture.geometry;
    const double seconds = a.span / kFrames;
    double step = 0.5;
    for (const double candidate : {0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0})
    {
        step = candidate;
        if (seconds / step * 64.0 < a.width)
            break;
    }
    graphics.setFont(uiFont(11.5f));
    const double begin = a.left / kFrames;
    for (double t = std::ceil(begin / step) * step; t < begin + seconds; t += step)
    {
        const float x = std::round(a.xOf(t * kFrames));
        graphics.setColour(p.outline.withAlpha(0.45f));
        graphics.fillRect(x, a.ruler.getBottom(), 1.0f, a.curve.getBottom() - a.ruler.getBottom());
        graphics.setColour(p.dimText);
        graphics.drawText(clock(t), juce::Rectangle<float>(x + 4.0f, 0.0f, 60.0f, a.ruler.getHeight() - 3.0f),
                          juce::Justification::centredLeft, false);
    }
}

void TimelinePainter::paintWave(juce::Graphics& graphics, juce::Rectangle<float> area, juce::Colour colour,
                                bool generated) const
{
    const TimelineGeometry& a = picture.geometry;
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
    const float width = static_cast<float>(a.width / a.span);
    for (std::size_t i = 0; i < picture.frames.size(); ++i)
    {
        const TimelineFrame& f = picture.frames[i];
        const bool isThere = f.state != WindowState::none &&
                             (!generated || (f.state != WindowState::waiting && f.state != WindowState::inFlight));
        if (!isThere)
        {
            flush(upper, lower);
            continue;
        }
        const float x = a.xOf(static_cast<double>(picture.first) + static_cast<double>(i)) + 0.5f * width;
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
void TimelinePainter::paintStates(juce::Graphics& graphics) const
{
    const TimelineGeometry& a = picture.geometry;
    for (std::size_t i = 0; i < picture.frames.size();)
    {
        std::size_t end = i + 1;
        while (end < picture.frames.size() && picture.frames[end].state == picture.frames[i].state)
            ++end;
        const WindowState window = picture.frames[i].state;
        const float x = a.xOf(static_cast<double>(picture.first) + static_cast<double>(i));
        const float right = a.xOf(static_cast<double>(picture.first) + static_cast<double>(end));
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
            for (float at = std::floor(std::max(x, -8.0f) / 6.0f) * 6.0f; at < std::min(right, a.width) + 8.0f;
                 at += 6.0f)
                graphics.drawLine(at, bar.getBottom(), at + slant, bar.getY(), 1.25f);
        }
        i = end;
    }
}

void TimelinePainter::paintCurve(juce::Graphics& graphics) const
{
    const TimelineGeometry& a = picture.geometry;
    graphics.setColour(p.outline.withAlpha(0.5f));
    graphics.fillRect(a.curve.withHeight(1.0f));
    const float rest = yOf(kLanes[picture.lane].defaultValue);
    const float dash[] = {3.0f, 4.0f};
    graphics.setColour(p.dimText.withAlpha(0.5f));
    graphics.drawDashedLine({0.0f, rest, a.width, rest}, dash, 2, 1.0f);

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
    for (std::size_t i = 0; i < picture.frames.size(); ++i)
    {
        const std::int64_t frame = picture.first + static_cast<std::int64_t>(i);
        const std::optional<float> hand = drawnAt(frame);
        const std::optional<float> value = hand ? hand : picture.frames[i].lane;
        const float x = a.xOf(static_cast<double>(frame)), right = a.xOf(static_cast<double>(frame) + 1.0);
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
        if (hand)
        {
            if (isDrawing)
                handDrawn.lineTo(x, y);
            else
                handDrawn.startNewSubPath(x, y);
            handDrawn.lineTo(right, y);
        }
        isDrawing = hand.has_value();
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
} // namespace demon
