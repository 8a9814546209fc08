// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>
#include <memory>
#include <string>
#include <vector>

#include "core/WireLanes.h"

namespace demon
{
/// A seed that was used, with the prompt that it was used for.
struct Take
{
    std::int64_t seed = 0;
    std::string prompt;
    bool operator==(const Take& o) const { return seed == o.seed && prompt == o.prompt; }
};

/// What the editor remembers in the project. Shapes no sound.
struct EditorState
{
    static constexpr int kDefaultWidth = 1200, kDefaultHeight = 880;
    static constexpr int kMinWidth = 1040, kMinHeight = 660, kMaxWidth = 2800, kMaxHeight = 1900;
    static constexpr std::size_t kMaxTakes = 48;

    int width = kDefaultWidth, height = kDefaultHeight;
    std::size_t shownLane = lane::denoise; ///< the one drawn under the timeline
    double timelineSeconds = 12.0;         ///< how much time the timeline shows
    bool seedLocked = false;               ///< presets and the dice leave the seed alone
    std::vector<Take> takes;               ///< newest first
    std::string preset;                    ///< the one loaded last, by key; see Presets.h
    std::string frozenFolder;              ///< where Freeze puts this project's takes; empty: the user's data folder

    /// Puts a seed at the head of the history.
    void addTake(const Take& take);

    EditorState sanitised() const;
    std::unique_ptr<juce::XmlElement> toXml() const;
    static EditorState fromXml(const juce::XmlElement& xml);
};
} // namespace demon
