// SPDX-License-Identifier: AGPL-3.0-or-later
#include "CurveCaret.h"

#include <algorithm>
#include <cmath>

namespace demon
{
void CurveCaret::show(std::size_t shownLane, std::int64_t clipFrames)
{
    lane = shownLane;
    length = clipFrames;
    const std::int64_t last = std::max<std::int64_t>(0, length - 1);
    caret = std::min(caret, last);
    anchor = std::min(anchor, last);
}

CurveCaret::Range CurveCaret::selection() const
{
    return {std::min(caret, anchor), std::min(length, std::max(caret, anchor) + unit)};
}

float CurveCaret::valueAt(const std::vector<float>& curve, std::int64_t frame) const
{
    const auto index = static_cast<std::size_t>(frame);
    if (index < curve.size() && !std::isnan(curve[index]))
        return curve[index];
    return valueUnderneath ? valueUnderneath(frame) : editing.lanes[lane].get();
}

float CurveCaret::value() const { return valueAt(editing.drawn.curve(lane), caret); }

void CurveCaret::moveTo(std::int64_t frame, std::int64_t grid, bool extends)
{
    unit = grid;
    caret = std::clamp<std::int64_t>(frame, 0, std::max<std::int64_t>(0, length - 1)) / grid * grid;
    if (!extends)
        anchor = caret;
}

void CurveCaret::setValue(float value)
{
    const Range range = selection();
    editing.drawn.draw(lane, range.first, std::vector<float>(static_cast<std::size_t>(range.end - range.first), value));
}

void CurveCaret::raise(float proportion)
{
    const auto& parameter = editing.lanes[lane];
    const Range range = selection();
    const std::vector<float> curve = editing.drawn.curve(lane);
    std::vector<float> values;
    for (std::int64_t frame = range.first; frame < range.end; ++frame)
        values.push_back(parameter.convertFrom0to1(
            std::clamp(parameter.convertTo0to1(valueAt(curve, frame)) + proportion, 0.0f, 1.0f)));
    editing.drawn.draw(lane, range.first, values);
}

void CurveCaret::drawLine()
{
    const Range range = selection();
    const std::vector<float> curve = editing.drawn.curve(lane);
    const float from = valueAt(curve, range.first), to = valueAt(curve, range.end - 1);
    const auto count = static_cast<std::size_t>(range.end - range.first);
    std::vector<float> values;
    for (std::size_t i = 0; i < count; ++i)
        values.push_back(from +
                         (to - from) * static_cast<float>(i) / static_cast<float>(std::max<std::size_t>(1, count - 1)));
    editing.drawn.draw(lane, range.first, values);
}

bool CurveCaret::keyPressed(const juce::KeyPress& key)
{
    const juce::ModifierKeys held = key.getModifiers();
    if (length <= 0 || held.isCommandDown() || held.isCtrlDown())
        return false;
    const std::int64_t grid = held.isAltDown() ? 1 : CurvePen::kStepFrames;
    const int code = key.getKeyCode();
    const bool isShifted = held.isShiftDown();
    if (code == juce::KeyPress::leftKey)
        moveTo(caret - grid, grid, isShifted);
    else if (code == juce::KeyPress::rightKey)
        moveTo(caret + grid, grid, isShifted);
    else if (code == juce::KeyPress::homeKey)
        moveTo(0, grid, isShifted);
    else if (code == juce::KeyPress::endKey)
        moveTo(length - 1, grid, isShifted);
    else if (code == juce::KeyPress::escapeKey && selection().end - selection().first > unit)
        anchor = caret;
    else if (code == juce::KeyPress::upKey)
        raise(isShifted ? 0.001f : 0.01f);
    else if (code == juce::KeyPress::downKey)
        raise(isShifted ? -0.001f : -0.01f);
    else if (code == juce::KeyPress::pageUpKey)
        raise(0.1f);
    else if (code == juce::KeyPress::pageDownKey)
        raise(-0.1f);
    else if (code == juce::KeyPress::deleteKey || code == juce::KeyPress::backspaceKey)
        editing.drawn.erase(lane, selection().first, selection().end);
    else if (code == 'L' || code == 'l')
        drawLine();
    else
        return false;
    return true;
}
} // namespace demon
