// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LoraPanel.h"

#include <algorithm>

namespace demon
{
namespace
{
constexpr int kNone = 1, kFirst = 2;
juce::String utf8(const std::string& text) { return juce::String::fromUTF8(text.c_str()); }
} // namespace

LoraPanel::LoraPanel(Editing& edits) : Panel("LoRA"), editing(edits)
{
    addAndMakeVisible(note);
    for (std::size_t i = 0; i < kLoraPlaces; ++i)
    {
        const juce::String number(static_cast<int>(i + 1));
        Place& place = places[i];
        place.menu =
            std::make_unique<Menu>("LoRA " + number, "Which LoRA of the engine's catalogue is in place " + number);
        place.menu->onChange = [this, i] { choose(i); };
        place.strength = std::make_unique<Fader>(editing, lane::lora_1 + i, 58);
        place.strength->setTitle("Strength of LoRA " + number);
        addAndMakeVisible(*place.menu);
        addAndMakeVisible(*place.strength);
    }
}

void LoraPanel::fillMenu(std::size_t index)
{
    Menu& menu = *places[index].menu;
    const LoraChoice& choice = shown[index];
    menu.clear(juce::dontSendNotification);
    menu.addItem("None", kNone);
    int selected = choice.isEmpty() ? kNone : 0;
    for (std::size_t i = 0; i < names.size(); ++i)
    {
        menu.addItem(utf8(names[i]), kFirst + static_cast<int>(i));
        if (choice.hash.empty() ? choice.name == names[i] : choice.hash == hashes[i])
            selected = kFirst + static_cast<int>(i);
    }
    menu.setSelectedId(selected, juce::dontSendNotification);
    const juce::String name = choice.name.empty() ? utf8(choice.hash.substr(0, 8)) : utf8(choice.name);
    if (selected == 0) // the engine does not have it, or is away
        menu.setText(names.empty() ? name : name + " (missing)", juce::dontSendNotification);
}

void LoraPanel::choose(std::size_t index)
{
    const int id = places[index].menu->getSelectedId();
    if (id == 0)
        return;
    Settings wanted = editing.settings();
    wanted.extras.loras[index] = {};
    if (id >= kFirst)
    {
        const auto chosen = static_cast<std::size_t>(id - kFirst);
        wanted.extras.loras[index] = {names[chosen], hashes[chosen]};
    }
    editing.history.together("LoRA " + juce::String(static_cast<int>(index + 1)),
                             [&]
                             {
                                 editing.changeSettings(wanted);
                                 const bool isSilent = editing.lanes[lane::lora_1 + index].get() == 0.0f;
                                 if (id >= kFirst && isSilent) // chosen to be heard
                                     setLane(editing.lanes, lane::lora_1 + index, 1.0f);
                             });
}

void LoraPanel::refresh(const EngineView& engine)
{
    const auto choices = editing.settings().extras.loras;
    if (hasFilled && choices == shown && engine.loraNames == names)
        return;
    hasFilled = true;
    shown = choices;
    names = engine.loraNames;
    hashes = engine.loraHashes;
    hashes.resize(names.size());
    for (std::size_t i = 0; i < kLoraPlaces; ++i)
    {
        fillMenu(i);
        places[i].menu->setEnabled(!names.empty() || !shown[i].isEmpty());
        places[i].strength->setEnabled(!shown[i].isEmpty());
    }
    const bool isMissing =
        std::any_of(shown.begin(), shown.end(),
                    [&](const LoraChoice& choice)
                    {
                        return !choice.isEmpty() && !names.empty() &&
                               std::find(hashes.begin(), hashes.end(), choice.hash) == hashes.end() &&
                               std::find(names.begin(), names.end(), choice.name) == names.end();
                    });
    note.setText(names.empty() ? "catalogue: no engine"
                 : isMissing   ? "one is missing"
                               : juce::String(static_cast<int>(names.size())) + " in the catalogue");
}

void LoraPanel::resized()
{
    auto area = placeHeading();
    note.setBounds(headingLine.withTrimmedLeft(60));
    for (Place& place : places)
    {
        auto row = area.removeFromTop(metrics::row);
        area.removeFromTop(4);
        place.menu->setBounds(row.removeFromLeft(row.getWidth() * 4 / 10));
        place.strength->setBounds(row.withTrimmedLeft(4));
    }
}
} // namespace demon
