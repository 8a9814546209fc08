// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LaneList.h"

#include <algorithm>

namespace demon
{
namespace
{
constexpr int kRowHeight = 24;
constexpr int kNameWidth = 160;
constexpr int kValueWidth = 100; // "-24.000 dB" and to spare
} // namespace

struct LaneList::Row
{
    Row(juce::AudioParameterFloat& parameter, const LaneInfo& lane) : info(lane), attachment(parameter, slider)
    {
        const juce::String tip = juce::String::fromUTF8(lane.help);
        name.setText(juce::String::fromUTF8(lane.name), juce::dontSendNotification);
        name.setTooltip(tip);
        slider.setSliderStyle(juce::Slider::LinearHorizontal);
        slider.setTextBoxStyle(juce::Slider::TextBoxRight, false, kValueWidth, kRowHeight - 4);
        slider.setScrollWheelEnabled(false); // the wheel scrolls the list
        slider.setTitle(name.getText());
        slider.setDescription(tip);
        slider.setTextValueSuffix(*lane.unit != '\0' ? " " + juce::String::fromUTF8(lane.unit) : juce::String());
        slider.textFromValueFunction = [](double value) { return juce::String(value, 3); };
        slider.updateText();
        slider.setTooltip(tip);
    }

    const LaneInfo& info;
    juce::Label name;
    juce::Slider slider;
    juce::SliderParameterAttachment attachment;
};

LaneList::LaneList(const LaneParameters& lanes)
{
    for (std::size_t i = 0; i < kLaneCount; ++i)
    {
        rows.push_back(std::make_unique<Row>(lanes[i], kLanes[i]));
        addAndMakeVisible(rows.back()->name);
        addAndMakeVisible(rows.back()->slider);
    }
    setSize(600, kRowHeight * static_cast<int>(rows.size()));
}

LaneList::~LaneList() = default;

void LaneList::showEngineLanes(const std::vector<std::string>& ids)
{
    if (ids == shownIds)
        return;
    shownIds = ids;
    for (const auto& row : rows)
    {
        const bool acts = ids.empty() || row->info.laneClass == LaneClass::output ||
                          std::find(ids.begin(), ids.end(), row->info.id) != ids.end();
        row->slider.setEnabled(acts);
        row->name.setEnabled(acts);
    }
}

void LaneList::resized()
{
    auto area = getLocalBounds();
    for (const auto& row : rows)
    {
        auto line = area.removeFromTop(kRowHeight);
        row->name.setBounds(line.removeFromLeft(kNameWidth));
        row->slider.setBounds(line);
    }
}
} // namespace demon
