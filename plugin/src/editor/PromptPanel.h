// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "Fader.h"
#include "Models.h"
#include "Panel.h"

namespace demon
{
/// What to play: prompts A and B with their blend, the seed and its takes, steps and solver.
class PromptPanel : public Panel
{
public:
    PromptPanel(Editing& editing, EngineModel& engine);
    void refresh(const EngineView& engine);
    void resized() override;
    static constexpr int kHeight = 214;

private:
    void change(const std::function<void(Settings&)>& edit);
    void showTakes();

    Editing& editing;
    Text labelA{"A", Text::Tone::title, juce::Justification::centred};
    Text labelB{"B", Text::Tone::title, juce::Justification::centred};
    Field promptA, promptB, seed, steps;
    Text blendLabel{"Blend", Text::Tone::dim}, seedLabel{"Seed", Text::Tone::dim}, stepsLabel{"Steps", Text::Tone::dim};
    Fader blend;
    IconButton dice{Icon::dice, "Roll the seed"}, lock{Icon::lock, "Lock the seed"},
        takes{Icon::history, "Takes: seeds that were used"};
    Choice solver;
};
} // namespace demon
