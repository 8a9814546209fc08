// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../UserPreferences.h"
#include "EnginePanel.h"
#include "Header.h"
#include "LanePanel.h"
#include "LoraPanel.h"
#include "Models.h"
#include "OutputPanel.h"
#include "PromptPanel.h"
#include "ReferencePanel.h"
#include "StatusBar.h"
#include "TimelineView.h"

namespace demon
{
/// The whole editor, made from models. Keeps no state: the models and the user's preferences do. Message thread only.
class EditorView : public juce::Component, private juce::Timer
{
public:
    explicit EditorView(const EditorModels& models, UserPreferences preferences = UserPreferences());
    ~EditorView() override;

    void refresh();    ///< all but the meters
    void refreshAll(); ///< as one turn of the timer does
    void setLight(bool light);
    bool isLight() const { return look.isLight(); }

    void paint(juce::Graphics&) override;
    void resized() override;
    bool keyPressed(const juce::KeyPress&) override; ///< Ctrl+Z and Ctrl+Shift+Z or Ctrl+Y

private:
    /// A column of panels, which scrolls when it is higher than the window.
    struct Column : juce::Viewport
    {
        Column();
        juce::Component content;
        int layOut(juce::Rectangle<int> bounds, std::initializer_list<std::pair<juce::Component*, int>> panels);
    };
    void timerCallback() override;

    static constexpr int kFastHz = 30, kSlowEvery = 3; // the timeline and meters; all else 10 times a second

    DemonLook look;
    const UserPreferences preferences;
    const EditorModels models;
    Header header;
    TimelineView timeline;
    Column left, right;
    PromptPanel prompt;
    LoraPanel loras;
    std::unique_ptr<ReferencePanel> references;
    LanePanel lanes;
    EnginePanel engine;
    OutputPanel output;
    StatusBar status;
    juce::TooltipWindow tooltips{this, 500};
    int ticks = 0;
};
} // namespace demon
