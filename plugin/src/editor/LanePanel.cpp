// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LanePanel.h"

#include <algorithm>

#include "../LaneText.h"

namespace demon
{
namespace
{
constexpr int kNameWidth = 132, kWhenWidth = 112, kTwoColumns = 860;

juce::String whenHeard(const LaneInfo& info)
{
    switch (info.laneClass)
    {
    case LaneClass::step:
        return "next tick";
    case LaneClass::submission:
        return "next hop";
    case LaneClass::output:
        break;
    }
    return "at once";
}
} // namespace

class LaneRow::NameButton : public juce::Button
{
public:
    explicit NameButton(const LaneInfo& info) : Button(juce::String::fromUTF8(info.name))
    {
        named(*this, "Show " + getName() + " on the timeline", juce::String::fromUTF8(info.help));
    }
    void setDimmed(bool dim)
    {
        if (std::exchange(isDimmed, dim) != dim)
            repaint();
    }

private:
    void paintButton(juce::Graphics& graphics, bool over, bool) override
    {
        const Palette& p = paletteOf(*this);
        if (over || getToggleState())
        {
            graphics.setColour(getToggleState() ? p.curve.withAlpha(0.16f) : p.raised);
            graphics.fillRoundedRectangle(getLocalBounds().toFloat().reduced(0.0f, 2.0f), 4.0f);
        }
        graphics.setColour(getToggleState() ? p.curve : isDimmed ? p.dimText : p.text);
        graphics.setFont(uiFont());
        graphics.drawFittedText(getName(), getLocalBounds().reduced(6, 0), juce::Justification::centredLeft, 1, 0.8f);
    }
    bool isDimmed = false;
};

LaneRow::LaneRow(Editing& edits, std::size_t index)
    : lane(index), editing(edits), name(std::make_unique<NameButton>(kLanes[index])), fader(edits, index, 68),
      when({}, Text::Tone::dim)
{
    addAndMakeVisible(*name);
    addAndMakeVisible(fader);
    addAndMakeVisible(when);
    name->onClick = [this]
    {
        if (onShow)
            onShow();
    };
}

bool LaneRow::matches(const juce::String& words) const
{
    const LaneInfo& info = kLanes[lane];
    const juce::String text =
        juce::String::fromUTF8(info.name) + " " + info.id + " " + info.group + " " + juce::String::fromUTF8(info.help);
    const juce::StringArray wanted = juce::StringArray::fromTokens(words, true);
    return std::all_of(wanted.begin(), wanted.end(),
                       [&](const juce::String& word) { return text.containsIgnoreCase(word); });
}

void LaneRow::refresh(const LaneFacts& facts, bool isShown)
{
    name->setToggleState(isShown, juce::dontSendNotification);
    static_cast<NameButton&>(*name).setDimmed(!facts.acts);
    fader.setEnabled(facts.acts);
    const juce::String help = juce::String::fromUTF8(kLanes[lane].help);
    juce::String text = whenHeard(kLanes[lane]);
    if (facts.latency && *facts.latency >= 0.0005)
        text << ", " << timeText::text(*facts.latency);
    if (const auto control = editing.midi.controlOf(lane))
        text = "CC " + juce::String(control->controller) + juce::String::fromUTF8(" \xc2\xb7 ") + text;
    const bool isLearning = editing.midi.learning() == lane;
    if (isLearning)
        text = "move a controller";
    else if (!facts.acts)
        text = facts.reason.isEmpty() ? juce::String("no effect") : facts.reason;
    when.setText(text);
    when.setTooltip(facts.acts ? help : help + " " + facts.reason);
    when.setColour(isLearning ? +[](const Palette& p) { return p.accent; } : nullptr);
}

void LaneRow::resized()
{
    auto area = getLocalBounds();
    name->setBounds(area.removeFromLeft(kNameWidth));
    when.setBounds(area.removeFromRight(kWhenWidth));
    fader.setBounds(area.withTrimmedRight(10));
}

LanePanel::LanePanel(Editing& edits, EngineModel& engineModel)
    : Panel("Lanes"), editing(edits), engine(engineModel),
      search("Search lanes", "Shows the lanes whose name or help has these words", "Search")
{
    addAndMakeVisible(search);
    search.onTextChange = [this] { layOut(); };
    search.onEscapeKey = [this]
    {
        search.setText({});
        layOut();
    };
    for (std::size_t lane = 0; lane < kLaneCount; ++lane)
    {
        const juce::String title = juce::String::fromUTF8(kLanes[lane].group);
        auto group =
            std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g->title.getText() == title; });
        if (group == groups.end())
        {
            groups.push_back(std::make_unique<Group>());
            group = std::prev(groups.end());
            (*group)->title.setText(title);
            list.addAndMakeVisible((*group)->title);
        }
        auto& row = *(*group)->rows.emplace_back(std::make_unique<LaneRow>(editing, lane));
        row.onShow = [this, lane]
        {
            if (onShowLane)
                onShowLane(lane);
        };
        list.addAndMakeVisible(row);
    }
    list.addChildComponent(nothing);
    viewport.setViewedComponent(&list, false);
    viewport.setScrollBarsShown(true, false);
    addAndMakeVisible(viewport);
}

LanePanel::~LanePanel() = default;

void LanePanel::refresh()
{
    const std::size_t shown = editing.editor.get().shownLane;
    for (const auto& group : groups)
        for (const auto& row : group->rows)
            row->refresh(engine.facts(row->lane), row->lane == shown);
}

bool LanePanel::keyPressed(const juce::KeyPress& key)
{
    if (key != juce::KeyPress('f', juce::ModifierKeys::commandModifier, 0))
        return false;
    search.grabKeyboardFocus();
    return true;
}

void LanePanel::resized()
{
    auto area = placeHeading();
    search.setBounds(headingLine.withTrimmedLeft(headingLine.getWidth() - 190).reduced(0, 2));
    heading.setBounds(headingLine.withTrimmedRight(200));
    viewport.setBounds(area.withTrimmedRight(-metrics::pad + 2));
    layOut();
}

/// One column or, where there is room, two of about equal length.
void LanePanel::layOut()
{
    const int width = viewport.getWidth() - viewport.getScrollBarThickness();
    const int columns = width >= kTwoColumns ? 2 : 1;
    const int columnWidth = (width - (columns - 1) * 2 * metrics::pad) / columns;
    const juce::String words = search.getText().trim();
    int total = 0;
    std::vector<int> heights;
    for (const auto& group : groups)
    {
        int rows = 0;
        for (const auto& row : group->rows)
        {
            row->setVisible(words.isEmpty() || row->matches(words));
            rows += row->isVisible() ? 1 : 0;
        }
        group->title.setVisible(rows > 0);
        heights.push_back(rows > 0 ? 24 + rows * metrics::row + 6 : 0);
        total += heights.back();
    }
    nothing.setVisible(total == 0);
    nothing.setBounds(0, 0, width, 60);
    int x = 0, y = 0, lowest = 0;
    for (std::size_t i = 0; i < groups.size(); ++i)
    {
        if (columns == 2 && x == 0 && y > 0 && y + heights[i] / 2 > total / 2)
        {
            x = columnWidth + 2 * metrics::pad;
            y = 0;
        }
        if (heights[i] == 0)
            continue;
        groups[i]->title.setBounds(x + 6, y, columnWidth - 6, 24);
        int rowY = y + 24;
        for (const auto& row : groups[i]->rows)
            if (row->isVisible())
            {
                row->setBounds(x, rowY, columnWidth, metrics::row);
                rowY += metrics::row;
            }
        y += heights[i];
        lowest = std::max(lowest, y);
    }
    list.setSize(width, std::max(lowest, total == 0 ? 60 : 0));
}
} // namespace demon
