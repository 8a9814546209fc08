// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>

#include "services/UserSettings.h"

namespace demon
{
/// What the user prefers in every editor. A file that cannot be written loses the preference. Message thread only.
class UserPreferences
{
public:
    explicit UserPreferences(const juce::File& settings = juce::File(UserSettingsFile::defaultPath().string()))
        : file(settings.getFullPathName().toStdString())
    {
    }

    bool isLight() const { return file.load().theme == Theme::light; }
    void setLight(bool light) const
    {
        file.change([light](UserSettings& settings) { settings.theme = light ? Theme::light : Theme::dark; });
    }

private:
    const UserSettingsFile file;
};
} // namespace demon
