// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Fader.h"
#include "LevelMeter.h"
#include "Models.h"
#include "Panel.h"

namespace demon
{
/// The last render as something to drag into the project; pressed, it shows the file where dragging does not work.
class RenderChip : public juce::Button
{
public:
    explicit RenderChip(const juce::String& name);
    void show(const RenderView& view);

private:
    void paintButton(juce::Graphics&, bool over, bool down) override;
    void mouseDrag(const juce::MouseEvent&) override;
    void clicked() override;
    RenderView shown;
    bool isDragging = false;
};

/// What leaves the plugin: mix, level, limiter, meters, and the rendered result.
class OutputPanel : public Panel
{
public:
    OutputPanel(Editing& editing, OutputModel* output, RenderModel* render);
    void refresh(); ///< settings and render
    void refreshLevels(double secondsSinceLast);
    void resized() override;
    int neededHeight() const { return 108 + (output != nullptr ? 98 : 0) + (render != nullptr ? 36 : 0); }

private:
    void chooseFolder();

    OutputModel* const output;
    RenderModel* const render;
    Text mixLabel{"Mix", Text::Tone::dim}, gainLabel{"Gain", Text::Tone::dim}, inLabel{"In", Text::Tone::dim},
        outLabel{"Out", Text::Tone::dim}, reduction{{}, Text::Tone::dim, juce::Justification::centredRight};
    Fader mix, gain;
    LevelMeter in{"Input level"}, out{"Output level"};
    juce::ToggleButton match{"Match loudness"}, limiter{"Limiter"}, limitBounces{"in bounces too"};
    juce::ToggleButton freeze{"Freeze"};
    IconButton folder{Icon::folder, "Folder of frozen takes"};
    RenderChip chip{"Last render"};
    std::unique_ptr<juce::FileChooser> chooser;
};
} // namespace demon
