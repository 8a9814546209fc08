// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>
#include <memory>
#include <string>

#include "link/TrackClient.h"

namespace demon
{
/// A clip and what it is called.
struct NamedClip
{
    ClipSource clip; ///< without a source when there is none
    std::string name;
};

/// <CLIP> of a saved project: see ClipXml.cpp. `named.clip` has a source; `packedAudio` is its audio (SavedAudio.h).
/// Any thread; allocates.
std::unique_ptr<juce::XmlElement> clipToXml(const NamedClip& named, const juce::String& packedAudio);

/// The inverse; without a source when the audio is damaged. Lanes that are missing, damaged or unknown here have their
/// defaults.
NamedClip clipFromXml(const juce::XmlElement& xml);
} // namespace demon
