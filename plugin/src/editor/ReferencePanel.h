// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Models.h"
#include "Panel.h"

namespace demon
{
/// Where a reference clip is dropped or chosen.
class DropZone : public juce::Button, public juce::FileDragAndDropTarget
{
public:
    DropZone(ReferenceModel& model, ReferenceKind kind);
    void refresh();

    bool isInterestedInFileDrag(const juce::StringArray& files) override { return files.size() == 1; }
    void fileDragEnter(const juce::StringArray&, int, int) override;
    void fileDragExit(const juce::StringArray&) override;
    void filesDropped(const juce::StringArray& files, int, int) override;
    void resized() override;

private:
    void paintButton(juce::Graphics&, bool over, bool down) override;
    void load(const juce::File& file);
    void browse();

    ReferenceModel& model;
    const ReferenceKind kind;
    ReferenceView shown;
    juce::String problem; ///< of the last file
    bool isTarget = false;
    IconButton remove;
    std::unique_ptr<juce::FileChooser> chooser;
};

/// The references for timbre and structure.
class ReferencePanel : public Panel
{
public:
    explicit ReferencePanel(ReferenceModel& model);
    void refresh();
    void resized() override;
    static constexpr int kHeight = 100;

private:
    DropZone timbre, structure;
};
} // namespace demon
