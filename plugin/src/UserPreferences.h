// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>

#include "UserFolders.h"

namespace demon
{
/// What the user prefers in every project: editor.json in the user's data folder, {"theme": "dark"}. A file that cannot
/// be read is as if it were not there; one that cannot be written loses the preference. Message thread.
class UserPreferences
{
public:
    explicit UserPreferences(juce::File preferencesFile = userDataFolder().getChildFile("editor.json"))
        : file(std::move(preferencesFile))
    {
    }

    bool isLight() const { return juce::JSON::parse(file)["theme"].toString() == "light"; }

    void setLight(bool light) const
    {
        juce::var json = juce::JSON::parse(file);
        if (!json.isObject())
            json = new juce::DynamicObject();
        json.getDynamicObject()->setProperty("theme", light ? "light" : "dark");
        file.getParentDirectory().createDirectory();
        file.replaceWithText(juce::JSON::toString(json));
    }

private:
    const juce::File file;
};
} // namespace demon
