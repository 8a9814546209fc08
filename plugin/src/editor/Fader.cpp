// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Fader.h"

#include "../LaneText.h"
#include "Widgets.h"

namespace demon
{
Fader::Fader(Editing& edits, std::size_t index, int valueWidth)
    : editing(edits), lane(index), attachment(edits.lanes[index], *this)
{
    const LaneInfo& info = kLanes[lane];
    setSliderStyle(LinearHorizontal);
    setTextBoxStyle(TextBoxRight, false, valueWidth, 22);
    setScrollWheelEnabled(false); // the wheel scrolls the list
    setSliderSnapsToMousePosition(true);
    named(*this, juce::String::fromUTF8(info.name), juce::String::fromUTF8(info.help));
    setDescription(juce::String::fromUTF8(info.help));
    setDoubleClickReturnValue(true, static_cast<double>(info.defaultValue));
    textFromValueFunction = [&info](double value) { return laneText::text(info, static_cast<float>(value)); };
    valueFromTextFunction = [this, &info](const juce::String& text)
    {
        const auto value = laneText::value(info, text);
        return value ? static_cast<double>(*value) : getValue();
    };
    const double resting = valueToProportionOfLength(static_cast<double>(info.defaultValue));
    getProperties().set("default", resting);
    if (info.min < 0.0f) // gain and the like grow from the middle
        getProperties().set("origin", valueToProportionOfLength(0.0));
    updateText();
}

void Fader::mouseDown(const juce::MouseEvent& event)
{
    if (event.mods.isPopupMenu())
        showMenu();
    else
        Slider::mouseDown(event);
}

void Fader::moveTo(double proportion)
{
    const ScopedDragNotification gesture(*this);
    setValue(proportionOfLengthToValue(juce::jlimit(0.0, 1.0, proportion)), juce::sendNotificationSync);
}

bool Fader::keyPressed(const juce::KeyPress& key)
{
    const double at = valueToProportionOfLength(getValue());
    const double small = key.getModifiers().isShiftDown() ? 0.001 : 0.01;
    const int code = key.getKeyCode();
    if (code == juce::KeyPress::rightKey || code == juce::KeyPress::upKey)
        moveTo(at + small);
    else if (code == juce::KeyPress::leftKey || code == juce::KeyPress::downKey)
        moveTo(at - small);
    else if (code == juce::KeyPress::pageUpKey)
        moveTo(at + 0.1);
    else if (code == juce::KeyPress::pageDownKey)
        moveTo(at - 0.1);
    else if (code == juce::KeyPress::homeKey)
        moveTo(0.0);
    else if (code == juce::KeyPress::endKey)
        moveTo(1.0);
    else if (code == juce::KeyPress::backspaceKey || code == juce::KeyPress::deleteKey)
        moveTo(valueToProportionOfLength(getDoubleClickReturnValue()));
    else if (code == juce::KeyPress::returnKey)
        showTextBox();
    else if (code == juce::KeyPress::F10Key && key.getModifiers().isShiftDown())
        showMenu();
    else
        return false;
    return true;
}

void Fader::showMenu()
{
    juce::PopupMenu menu;
    menu.setLookAndFeel(&getLookAndFeel());
    menu.addSectionHeader(getTitle());
    menu.addItem("Type a value", [this] { showTextBox(); });
    menu.addItem("Back to " + laneText::text(kLanes[lane], kLanes[lane].defaultValue),
                 [this] { moveTo(valueToProportionOfLength(getDoubleClickReturnValue())); });
    menu.addSeparator();
    const auto changed = [this]
    {
        if (onMenuChange)
            onMenuChange();
    };
    if (editing.midi.learning() == lane)
        menu.addItem("Stop learning",
                     [this, changed]
                     {
                         editing.midi.cancelLearning();
                         changed();
                     });
    else
        menu.addItem("MIDI learn: move a controller",
                     [this, changed]
                     {
                         editing.midi.learn(lane);
                         changed();
                     });
    if (const auto control = editing.midi.controlOf(lane))
        menu.addItem("Forget " + control->text(),
                     [this, changed]
                     {
                         editing.midi.forget(lane);
                         changed();
                     });
    menu.showMenuAsync(
        juce::PopupMenu::Options().withTargetComponent(this).withDeletionCheck(*this).withMinimumWidth(220));
}
} // namespace demon
