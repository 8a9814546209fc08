// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <functional>
#include <juce_core/juce_core.h>
#include <memory>
#include <optional>

#include "Guarded.h"
#include "Sound.h"

namespace demon
{
/// Two sounds to compare. The one in use is the plugin's own; the other is kept here and in the project.
/// Message thread; the XML functions from any thread but the audio thread.
class AbCompare
{
public:
    struct Access
    {
        std::function<Sound()> get;
        std::function<void(const Sound&, const juce::String& name)> put; ///< as one step of the undo history
    };
    explicit AbCompare(Access access);

    int active() const; ///< 0: A, 1: B
    void select(int side);
    void copyToOther(); ///< the other side becomes what is heard now
    bool areEqual() const;

    std::unique_ptr<juce::XmlElement> toXml() const;
    void fromXml(const juce::XmlElement& xml);

private:
    struct Sides
    {
        int active = 0;
        std::optional<Sound> other; ///< nothing yet: equal to what is heard
    };
    const Access sound;
    Guarded<Sides> sides;
};
} // namespace demon
