// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <functional>
#include <juce_audio_processors/juce_audio_processors.h>
#include <juce_gui_basics/juce_gui_basics.h>

#include "../Editing.h"

namespace demon
{
/// A lane's fader with its value as text. Arrow keys move it by 1 %, with Shift by 0.1 %, Page keys by 10 %, Home and
/// End to the ends, Backspace to the default; Return types a value; a right click offers MIDI learn.
class Fader : public juce::Slider
{
public:
    Fader(Editing& editing, std::size_t lane, int valueWidth = 76);

    std::function<void()> onMenuChange; ///< the menu has changed what MIDI does

    void mouseDown(const juce::MouseEvent&) override;
    bool keyPressed(const juce::KeyPress&) override;

private:
    void showMenu();
    void moveTo(double proportion);

    Editing& editing;
    const std::size_t lane;
    juce::SliderParameterAttachment attachment;
};
} // namespace demon
