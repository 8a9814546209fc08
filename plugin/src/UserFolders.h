// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>

namespace demon
{
/// Where the user's own files live: $XDG_DATA_HOME/demon-bridge, by default ~/.local/share/demon-bridge; on other
/// systems the folder for application data. Not created here.
inline juce::File userDataFolder()
{
    const juce::String xdg = juce::SystemStats::getEnvironmentVariable("XDG_DATA_HOME", {});
    if (juce::File::isAbsolutePath(xdg))
        return juce::File(xdg).getChildFile("demon-bridge");
#if JUCE_LINUX || JUCE_BSD
    return juce::File::getSpecialLocation(juce::File::userHomeDirectory).getChildFile(".local/share/demon-bridge");
#else
    return juce::File::getSpecialLocation(juce::File::userApplicationDataDirectory).getChildFile("demon-bridge");
#endif
}
} // namespace demon
