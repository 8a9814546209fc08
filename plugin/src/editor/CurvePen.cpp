// SPDX-License-Identifier: AGPL-3.0-or-later
#include "CurvePen.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace demon
{
void CurvePen::begin(DrawTool wanted, std::size_t drawnLane, std::int64_t clipFrames, Place place)
{
    tool = wanted;
    lane = drawnLane;
    length = clipFrames;
    first = last = place;
    touchedFirst = length;
    touchedEnd = 0;
    before = editing.drawn.curve(lane);
    editing.drawn.beginStroke(lane);
    moveTo(place);
}

void CurvePen::moveTo(Place place)
{
    switch (tool)
    {
    case DrawTool::smooth:
        straight(last.frame, valueAt(last.proportion), place.frame, valueAt(place.proportion));
        break;
    case DrawTool::line:
        line(place);
        break;
    case DrawTool::step:
        stairs(place);
        break;
    case DrawTool::erase:
        erase(place.frame);
        break;
    case DrawTool::none:
        return;
    }
    last = place;
}

void CurvePen::end()
{
    if (!isDrawing())
        return;
    if (tool == DrawTool::smooth)
        smoothen();
    tool = DrawTool::none;
    editing.drawn.endStroke();
}

void CurvePen::straight(double fromFrame, float fromValue, double toFrame, float toValue)
{
    if (fromFrame > toFrame)
    {
        std::swap(fromFrame, toFrame);
        std::swap(fromValue, toValue);
    }
    const auto begin = std::clamp(static_cast<std::int64_t>(std::floor(fromFrame)), std::int64_t{0}, length - 1);
    const auto end = std::clamp(static_cast<std::int64_t>(std::floor(toFrame)), begin, length - 1) + 1;
    std::vector<float> values;
    for (std::int64_t frame = begin; frame < end; ++frame)
    {
        const double middle = static_cast<double>(frame) + 0.5;
        const double share =
            toFrame > fromFrame ? std::clamp((middle - fromFrame) / (toFrame - fromFrame), 0.0, 1.0) : 1.0;
        values.push_back(fromValue + static_cast<float>(share) * (toValue - fromValue));
    }
    touchedFirst = std::min(touchedFirst, begin);
    touchedEnd = std::max(touchedEnd, end);
    editing.drawn.draw(lane, begin, values);
}

/// The line so far gives way to the new one.
void CurvePen::line(Place to)
{
    if (touchedEnd > touchedFirst)
    {
        before.resize(std::max(static_cast<std::size_t>(touchedEnd), before.size()),
                      std::numeric_limits<float>::quiet_NaN());
        editing.drawn.draw(lane, touchedFirst,
                           {before.begin() + static_cast<std::ptrdiff_t>(touchedFirst),
                            before.begin() + static_cast<std::ptrdiff_t>(touchedEnd)});
    }
    touchedFirst = length;
    touchedEnd = 0;
    straight(first.frame, valueAt(first.proportion), to.frame, valueAt(to.proportion));
}

/// Each stair has the value that the hand had over it; a fast hand skips none.
void CurvePen::stairs(Place to)
{
    const auto stairOf = [](double frame) { return static_cast<std::int64_t>(std::floor(frame / kStepFrames)); };
    const std::int64_t start = stairOf(last.frame), end = stairOf(to.frame), way = end >= start ? 1 : -1;
    for (std::int64_t stair = start;; stair += way)
    {
        const float share = end == start ? 1.0f : static_cast<float>(stair - start) / static_cast<float>(end - start);
        const float value = valueAt(last.proportion + share * (to.proportion - last.proportion));
        const auto begin = static_cast<double>(stair * kStepFrames);
        if (stair >= 0 && stair * kStepFrames < length)
            straight(begin, value, begin + static_cast<double>(kStepFrames) - 1.0, value);
        if (stair == end)
            break;
    }
}

void CurvePen::erase(double to)
{
    const auto begin = static_cast<std::int64_t>(std::floor(std::min(last.frame, to)));
    const auto end = static_cast<std::int64_t>(std::floor(std::max(last.frame, to))) + 1;
    editing.drawn.erase(lane, std::max<std::int64_t>(0, begin), std::min(length, end));
}

/// Two passes of a short mean over what the hand has drawn; its ends stay.
void CurvePen::smoothen()
{
    constexpr int radius = 3;
    std::vector<float> curve = editing.drawn.curve(lane);
    const auto begin = static_cast<std::ptrdiff_t>(touchedFirst);
    const auto end = std::min(static_cast<std::ptrdiff_t>(touchedEnd), static_cast<std::ptrdiff_t>(curve.size()));
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
    editing.drawn.draw(lane, touchedFirst, values);
}
} // namespace demon
