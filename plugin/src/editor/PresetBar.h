// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../Presets.h"
#include "Models.h"
#include "Widgets.h"

namespace demon
{
/// The preset that is loaded, and the way to others. Needs no engine.
class PresetBar : public juce::Component
{
public:
    explicit PresetBar(Editing& editing);
    void refresh();
    void resized() override;

private:
    void showMenu();
    void addPresets(juce::PopupMenu& menu, bool factory);
    void step(int by);
    void saveAs();
    void rename();
    void exportConfig();
    void importConfig();
    void report(const juce::String& problem);

    Editing& editing;
    PresetLibrary library;
    IconButton previous{Icon::previous, "Previous preset"}, next{Icon::next, "Next preset"};
    juce::TextButton name;
    std::unique_ptr<juce::FileChooser> chooser;
};
} // namespace demon
