// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <memory>
#include <vector>

#include "Fader.h"
#include "Models.h"
#include "Panel.h"

namespace demon
{
/// One lane: its name (pressed, the lane is drawn under the timeline), its fader, and when a change is heard.
class LaneRow : public juce::Component
{
public:
    LaneRow(Editing& editing, std::size_t lane);
    void refresh(const LaneFacts& facts, bool isShown);
    void resized() override;
    bool matches(const juce::String& words) const;

    const std::size_t lane;
    std::function<void()> onShow;

private:
    class NameButton;
    Editing& editing;
    std::unique_ptr<juce::Button> name;
    Fader fader;
    Text when;
};

/// Every lane in its group, with a search field.
class LanePanel : public Panel
{
public:
    LanePanel(Editing& editing, EngineModel& engine);
    ~LanePanel() override;
    void refresh();
    void resized() override;
    bool keyPressed(const juce::KeyPress&) override; ///< Ctrl+F searches

    std::function<void(std::size_t lane)> onShowLane;

private:
    struct Group
    {
        Text title{{}, Text::Tone::title};
        std::vector<std::unique_ptr<LaneRow>> rows;
    };
    void layOut();

    Editing& editing;
    EngineModel& engine;
    Field search;
    juce::Viewport viewport;
    juce::Component list;
    std::vector<std::unique_ptr<Group>> groups;
    Text nothing{"No lane of that name", Text::Tone::dim, juce::Justification::centred};
};
} // namespace demon
