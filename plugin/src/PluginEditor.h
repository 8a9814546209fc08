// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_gui_basics/juce_gui_basics.h>

#include "PluginProcessor.h"
#include "editor/EditorView.h"
#include "editor/ProcessorModels.h"

namespace demon
{
/// The host's window around the editor's view. Its size is remembered in the project. Message thread only.
class PluginEditor : public juce::AudioProcessorEditor
{
public:
    explicit PluginEditor(PluginProcessor& owner);
    void resized() override;

private:
    PluginProcessor& processor;
    ProcessorModels models;
    EditorView view;
};
} // namespace demon
