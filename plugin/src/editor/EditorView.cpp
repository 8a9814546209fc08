// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EditorView.h"

#include <algorithm>

namespace demon
{
namespace
{
constexpr int kStatusHeight = 30, kLeftWidth = 290, kRightWidth = 272;
}

EditorView::Column::Column()
{
    setViewedComponent(&content, false);
    setScrollBarsShown(true, false);
}

int EditorView::Column::layOut(juce::Rectangle<int> bounds,
                               std::initializer_list<std::pair<juce::Component*, int>> panels)
{
    int height = -metrics::gap;
    for (const auto& panel : panels)
        height += panel.second + metrics::gap;
    const bool scrolls = height > bounds.getHeight();
    setBounds(bounds);
    content.setSize(bounds.getWidth() - (scrolls ? getScrollBarThickness() : 0), std::max(height, bounds.getHeight()));
    auto area = content.getLocalBounds();
    std::size_t placed = 0;
    for (const auto& [panel, wanted] : panels)
    {
        // The last panel ends with the column.
        panel->setBounds(++placed == panels.size() ? area : area.removeFromTop(wanted));
        area.removeFromTop(metrics::gap);
    }
    return height;
}

EditorView::EditorView(const EditorModels& all, UserPreferences userPreferences)
    : look(userPreferences.isLight()), preferences(std::move(userPreferences)), models(all),
      header(all.editing, all.mode, all.bypass), timeline(all.editing, all.timeline, all.loop),
      prompt(all.editing, all.engine), loras(all.editing),
      references(all.references != nullptr ? std::make_unique<ReferencePanel>(*all.references) : nullptr),
      lanes(all.editing, all.engine), engine(all.engine), output(all.editing, all.output, all.render),
      status(all.status)
{
    setTitle("DEMON");
    setLookAndFeel(&look);
    setWantsKeyboardFocus(true);
    for (juce::Component* child :
         std::initializer_list<juce::Component*>{&header, &timeline, &left, &lanes, &right, &status})
        addAndMakeVisible(child);
    left.content.addAndMakeVisible(prompt);
    left.content.addAndMakeVisible(loras);
    if (references != nullptr)
        left.content.addAndMakeVisible(*references);
    right.content.addAndMakeVisible(engine);
    right.content.addAndMakeVisible(output);
    header.onTheme = [this]
    {
        setLight(!look.isLight());
        preferences.setLight(look.isLight());
    };
    lanes.onShowLane = [this](std::size_t lane)
    {
        models.editing.editor.change([&](EditorState& state) { state.shownLane = lane; });
        refresh();
    };
    sendLookAndFeelChange();
    refresh();
    startTimerHz(kFastHz);
}

EditorView::~EditorView()
{
    stopTimer();
    setLookAndFeel(nullptr);
}

void EditorView::setLight(bool light)
{
    look.setLight(light);
    sendLookAndFeelChange();
    repaint();
}

void EditorView::refresh()
{
    const EngineView view = models.engine.view();
    const PlayMode mode = models.mode != nullptr ? models.mode->mode() : PlayMode::stream;
    header.refresh();
    timeline.refreshTools(mode);
    timeline.refresh();
    prompt.refresh(view);
    loras.refresh(view);
    if (references != nullptr)
        references->refresh();
    lanes.refresh();
    engine.refresh(view, mode == PlayMode::loop);
    output.refresh();
    status.refresh();
}

void EditorView::refreshAll()
{
    output.refreshLevels(1.0 / kFastHz);
    refresh();
}

void EditorView::timerCallback()
{
    output.refreshLevels(1.0 / kFastHz);
    if (++ticks % kSlowEvery == 0)
        refresh();
    else
        timeline.refresh();
}

bool EditorView::keyPressed(const juce::KeyPress& key)
{
    const juce::ModifierKeys command = juce::ModifierKeys::commandModifier;
    const juce::ModifierKeys both = juce::ModifierKeys::commandModifier | juce::ModifierKeys::shiftModifier;
    if (key == juce::KeyPress('z', command, 0))
        models.editing.history.undo();
    else if (key == juce::KeyPress('z', both, 0) || key == juce::KeyPress('y', command, 0))
        models.editing.history.redo();
    else
        return lanes.keyPressed(key);
    refresh();
    return true;
}

void EditorView::paint(juce::Graphics& graphics) { graphics.fillAll(look.palette().window); }

void EditorView::resized()
{
    auto area = getLocalBounds();
    header.setBounds(area.removeFromTop(Header::kHeight));
    status.setBounds(area.removeFromBottom(kStatusHeight));
    area.reduce(metrics::gap, metrics::gap);
    const int leftHeight = PromptPanel::kHeight + LoraPanel::kHeight +
                           (references != nullptr ? ReferencePanel::kHeight + metrics::gap : 0) + metrics::gap;
    const int columns = std::max(leftHeight, EnginePanel::kHeight + metrics::gap + output.neededHeight());
    const int timelineHeight =
        std::clamp(area.getHeight() - columns - metrics::gap, 190, std::max(190, area.getHeight() * 45 / 100));
    timeline.setBounds(area.removeFromTop(timelineHeight));
    area.removeFromTop(metrics::gap);
    const auto leftArea = area.removeFromLeft(kLeftWidth);
    if (references != nullptr)
        left.layOut(leftArea, {{&prompt, PromptPanel::kHeight},
                               {references.get(), ReferencePanel::kHeight},
                               {&loras, LoraPanel::kHeight}});
    else
        left.layOut(leftArea, {{&prompt, PromptPanel::kHeight}, {&loras, LoraPanel::kHeight}});
    area.removeFromLeft(metrics::gap);
    right.layOut(area.removeFromRight(kRightWidth),
                 {{&engine, EnginePanel::kHeight}, {&output, output.neededHeight()}});
    area.removeFromRight(metrics::gap);
    lanes.setBounds(area);
}
} // namespace demon
