// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <functional>
#include <juce_gui_basics/juce_gui_basics.h>
#include <vector>

#include "Theme.h"

namespace demon
{
/// Small controls that several panels use. Each gives itself a name for screen readers and can be reached by keyboard.

enum class Icon
{
    undo,
    redo,
    previous,
    next,
    menu,
    copy,
    theme,
    power,
    dice,
    lock,
    history,
    smooth,
    line,
    step,
    eraser,
    zoomIn,
    zoomOut,
    record,
    stop,
    file,
    remove,
    drag,
    folder
};

/// The icon's strokes inside the unit square.
juce::Path iconPath(Icon icon);

/// A button with an icon; `name` is what it does.
class IconButton : public juce::Button
{
public:
    IconButton(Icon icon, const juce::String& name);
    void setIcon(Icon wanted);

private:
    void paintButton(juce::Graphics&, bool over, bool down) override;
    Icon icon;
};

/// A few exclusive choices side by side. Each is a button of its own.
class Choice : public juce::Component
{
public:
    struct Option
    {
        juce::String text, tip;
    };
    Choice(const juce::String& name, const std::vector<Option>& options);
    void setSelected(int index);
    int selected() const { return current; }
    juce::Button& button(int index) { return *buttons[static_cast<std::size_t>(index)]; }

    std::function<void(int)> onChoice;

    void resized() override;
    void paint(juce::Graphics&) override;

private:
    std::vector<std::unique_ptr<juce::TextButton>> buttons;
    int current = -1;
};

/// A text field that applies on Return and when the focus leaves it, and takes its text back on Escape.
class Field : public juce::TextEditor
{
public:
    Field(const juce::String& name, const juce::String& tip, const juce::String& hint = {});

    /// Shows `text` unless the user is typing.
    void show(const juce::String& text);

    std::function<void(const juce::String&)> onApply; ///< with a text that differs from the one shown last

    void lookAndFeelChanged() override;
    void focusGained(FocusChangeType) override;

private:
    void apply();
    juce::String shown, hint;
};

/// A combo box that is named for screen readers.
class Menu : public juce::ComboBox
{
public:
    Menu(const juce::String& name, const juce::String& tip);
};

/// A piece of text that is no control.
class Text : public juce::Component, public juce::SettableTooltipClient
{
public:
    enum class Tone
    {
        normal,
        dim,
        title
    };
    explicit Text(const juce::String& text = {}, Tone tone = Tone::normal,
                  juce::Justification where = juce::Justification::centredLeft);
    void setText(const juce::String& wanted);
    const juce::String& getText() const { return text; }
    void setColour(juce::Colour (*wanted)(const Palette&));
    void paint(juce::Graphics&) override;
    std::unique_ptr<juce::AccessibilityHandler> createAccessibilityHandler() override;

private:
    juce::String text;
    const Tone tone;
    const juce::Justification justification;
    juce::Colour (*colour)(const Palette&) = nullptr;
};

/// Names a control and lets the keyboard reach it.
template <class Control> Control& named(Control& control, const juce::String& name, const juce::String& tip = {})
{
    control.setTitle(name);
    control.setTooltip(tip.isEmpty() ? name : tip);
    control.setWantsKeyboardFocus(true);
    control.setHasFocusOutline(true);
    return control;
}

/// Asks for a line of text in a small window over `parent`; `onText` is not called when the user goes back.
void askForText(juce::Component& parent, const juce::String& title, const juce::String& text,
                std::function<void(const juce::String&)> onText);

/// Shows a sentence that the user must have seen.
void tell(juce::Component& parent, const juce::String& title, const juce::String& text);
} // namespace demon
