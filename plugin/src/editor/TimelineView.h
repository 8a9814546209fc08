// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>

#include "TimelineCanvas.h"

namespace demon
{
/// What the colours of the windows mean.
class Legend : public juce::Component
{
public:
    Legend();
    void paint(juce::Graphics&) override;
};

/// The canvas with its tools: which lane, how to draw, what to do with the clip, zoom. Takes dropped files as clips.
class TimelineView : public juce::Component, public juce::FileDragAndDropTarget
{
public:
    TimelineView(Editing& editing, TimelineModel& timeline, LoopModel* loop);
    void refresh(); ///< 30 times a second
    void refreshTools(PlayMode mode);
    void paint(juce::Graphics&) override;
    void resized() override;

    bool isInterestedInFileDrag(const juce::StringArray& files) override;
    void filesDropped(const juce::StringArray& files, int, int) override;

private:
    void choose(DrawTool tool);
    void loadClip(const juce::File& file);
    void browse();

    Editing& editing;
    LoopModel* const loop;
    TimelineCanvas canvas;
    Menu laneMenu;
    std::array<IconButton, 4> tools{IconButton{Icon::smooth, "Draw smoothly"}, IconButton{Icon::line, "Draw lines"},
                                    IconButton{Icon::step, "Draw steps"},
                                    IconButton{Icon::eraser, "Erase: the host's automation again"}};
    IconButton capture{Icon::record, "Capture a clip"}, open{Icon::file, "Open an audio file as the clip"},
        clear{Icon::remove, "Forget the clip"};
    juce::ToggleButton cycle{"Cycle"};
    Menu rounds;
    Text clipText{{}, Text::Tone::dim};
    Legend legend;
    IconButton zoomOut{Icon::zoomOut, "Show more time"}, zoomIn{Icon::zoomIn, "Show less time"};
    DrawTool tool = DrawTool::none;
    PlayMode mode = PlayMode::stream;
    bool hasLaidOut = false;
    std::unique_ptr<juce::FileChooser> chooser;
};
} // namespace demon
