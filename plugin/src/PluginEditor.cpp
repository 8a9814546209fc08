// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginEditor.h"

namespace demon
{
PluginEditor::PluginEditor(PluginProcessor& owner)
    : AudioProcessorEditor(&owner), processor(owner), models(owner), view(models.models())
{
    addAndMakeVisible(view);
    const EditorState state = processor.editing().editor.get();
    setResizable(true, true);
    setResizeLimits(EditorState::kMinWidth, EditorState::kMinHeight, EditorState::kMaxWidth, EditorState::kMaxHeight);
    setSize(state.width, state.height);
}

void PluginEditor::resized()
{
    view.setBounds(getLocalBounds());
    processor.editing().editor.change(
        [this](EditorState& state)
        {
            state.width = getWidth();
            state.height = getHeight();
        });
}
} // namespace demon
