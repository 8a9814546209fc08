// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Models.h"
#include "PresetBar.h"
#include "Widgets.h"

namespace demon
{
/// The top line: mode, presets, undo and redo, A/B, theme, bypass.
class Header : public juce::Component
{
public:
    Header(Editing& editing, ModeModel* mode, juce::AudioParameterBool& bypass);
    void refresh();
    void paint(juce::Graphics&) override;
    void resized() override;

    std::function<void()> onTheme;
    static constexpr int kHeight = 46;

private:
    Editing& editing;
    ModeModel* const mode;
    Choice modes;
    PresetBar presets;
    IconButton undo{Icon::undo, "Undo"}, redo{Icon::redo, "Redo"};
    Choice sides;
    IconButton copy{Icon::copy, "Copy to the other side"};
    IconButton theme{Icon::theme, "Light or dark"};
    IconButton bypass{Icon::power, "Bypass"};
    juce::ButtonParameterAttachment bypassAttachment;
};
} // namespace demon
