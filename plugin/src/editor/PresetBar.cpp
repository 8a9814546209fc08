// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PresetBar.h"

#include <algorithm>
#include <map>

namespace demon
{
PresetBar::PresetBar(Editing& edits) : editing(edits)
{
    setTitle("Presets");
    setFocusContainerType(FocusContainerType::focusContainer);
    named(name, "Presets", "Load, save and manage presets; import and export the whole configuration");
    name.onClick = [this] { showMenu(); };
    previous.onClick = [this] { step(-1); };
    next.onClick = [this] { step(1); };
    for (juce::Component* child : std::initializer_list<juce::Component*>{&previous, &name, &next})
        addAndMakeVisible(child);
    refresh();
}

void PresetBar::refresh()
{
    const juce::String key = juce::String::fromUTF8(editing.editor.get().preset.c_str());
    const Preset* preset = library.find(key);
    juce::String text = "Presets";
    if (preset != nullptr)
        text = preset->name + (editing.differsFrom(*preset) ? " *" : "");
    else if (key.isNotEmpty())
        text = key.fromFirstOccurrenceOf("/", false, false);
    name.setButtonText(text);
    name.setDescription(text.endsWith("*") ? text.dropLastCharacters(2) + ", changed" : text);
}

void PresetBar::resized()
{
    auto area = getLocalBounds();
    previous.setBounds(area.removeFromLeft(26));
    next.setBounds(area.removeFromRight(26));
    name.setBounds(area.reduced(2, 0));
}

void PresetBar::step(int by)
{
    const auto& all = library.presets();
    if (all.empty())
        return;
    const juce::String key = juce::String::fromUTF8(editing.editor.get().preset.c_str());
    const auto found = std::find_if(all.begin(), all.end(), [&](const Preset& p) { return p.key() == key; });
    const int count = static_cast<int>(all.size());
    const int at = found == all.end() ? (by > 0 ? -1 : 0) : static_cast<int>(found - all.begin());
    editing.load(all[static_cast<std::size_t>((at + by + count) % count)]);
    refresh();
}

void PresetBar::addPresets(juce::PopupMenu& menu, bool factory)
{
    const juce::String current = juce::String::fromUTF8(editing.editor.get().preset.c_str());
    std::map<juce::String, juce::PopupMenu> categories;
    for (const Preset& preset : library.presets())
        if (preset.isFactory() == factory)
        {
            juce::PopupMenu::Item item(preset.name);
            item.itemID = 1;
            item.isTicked = preset.key() == current;
            item.action = [this, preset]
            {
                editing.load(preset);
                refresh();
            };
            (factory ? categories[preset.category] : menu).addItem(item);
        }
    for (const auto& [category, presets] : categories)
        menu.addSubMenu(category, presets);
}

void PresetBar::showMenu()
{
    library.rescan();
    const Preset* current = library.find(juce::String::fromUTF8(editing.editor.get().preset.c_str()));
    const bool isUsers = current != nullptr && !current->isFactory();
    juce::PopupMenu menu;
    menu.setLookAndFeel(&getLookAndFeel());
    menu.addSectionHeader("Factory");
    addPresets(menu, true);
    menu.addSectionHeader("Yours");
    addPresets(menu, false);
    menu.addItem("Save as...", [this] { saveAs(); });
    if (isUsers)
    {
        menu.addItem("Save", editing.differsFrom(*current), false,
                     [this, preset = *current]() mutable
                     {
                         preset.sound = editing.sound();
                         report(library.save(preset));
                     });
        menu.addItem("Rename...", [this] { rename(); });
        menu.addItem("Delete", [this, key = current->key()] { report(library.remove(key)); });
    }
    menu.addSeparator();
    menu.addItem("Export configuration...", [this] { exportConfig(); });
    menu.addItem("Import configuration...", [this] { importConfig(); });
    menu.addItem("Show the folder of presets",
                 [this]
                 {
                     library.folder().createDirectory();
                     library.folder().revealToUser();
                 });
    menu.showMenuAsync(juce::PopupMenu::Options().withTargetComponent(name).withDeletionCheck(*this).withMinimumWidth(
        name.getWidth()));
}

void PresetBar::report(const juce::String& problem)
{
    if (problem.isNotEmpty())
        tell(*this, "Presets", problem);
    refresh();
}

void PresetBar::saveAs()
{
    askForText(*this, "Save preset", name.getButtonText().upToLastOccurrenceOf(" *", false, false),
               [safe = SafePointer<PresetBar>(this)](const juce::String& text)
               {
                   if (safe == nullptr)
                       return;
                   Preset preset;
                   preset.name = text.trim();
                   preset.category = "Yours";
                   preset.sound = safe->editing.sound();
                   const juce::String problem = safe->library.save(preset);
                   if (problem.isEmpty())
                       safe->editing.editor.change([&](EditorState& state)
                                                   { state.preset = ("user/" + preset.name).toStdString(); });
                   safe->report(problem);
               });
}

void PresetBar::rename()
{
    const juce::String key = juce::String::fromUTF8(editing.editor.get().preset.c_str());
    askForText(*this, "Rename preset", key.fromFirstOccurrenceOf("/", false, false),
               [safe = SafePointer<PresetBar>(this), key](const juce::String& text)
               {
                   if (safe == nullptr)
                       return;
                   const juce::String problem = safe->library.rename(key, text);
                   if (problem.isEmpty())
                       safe->editing.editor.change([&](EditorState& state)
                                                   { state.preset = ("user/" + text.trim()).toStdString(); });
                   safe->report(problem);
               });
}

void PresetBar::exportConfig()
{
    chooser = std::make_unique<juce::FileChooser>("Export the configuration", juce::File(), "*.json");
    chooser->launchAsync(juce::FileBrowserComponent::saveMode | juce::FileBrowserComponent::warnAboutOverwriting,
                         [this](const juce::FileChooser& done)
                         {
                             const juce::File file = done.getResult();
                             if (file != juce::File() &&
                                 !file.withFileExtension("json").replaceWithText(editing.configJson()))
                                 report("Cannot write " + file.getFullPathName());
                         });
}

void PresetBar::importConfig()
{
    chooser = std::make_unique<juce::FileChooser>("Import a configuration", juce::File(), "*.json");
    chooser->launchAsync(juce::FileBrowserComponent::openMode | juce::FileBrowserComponent::canSelectFiles,
                         [this](const juce::FileChooser& done)
                         {
                             const juce::File file = done.getResult();
                             if (file != juce::File() && !editing.importConfig(file.loadFileAsString()))
                                 report(file.getFileName() +
                                        " is no configuration of a version that this plugin knows");
                         });
}
} // namespace demon
