// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EditorState.h"

#include <algorithm>
#include <cmath>

namespace demon
{
void EditorState::addTake(const Take& take)
{
    takes.erase(std::remove(takes.begin(), takes.end(), take), takes.end());
    takes.insert(takes.begin(), take);
    if (takes.size() > kMaxTakes)
        takes.resize(kMaxTakes);
}

EditorState EditorState::sanitised() const
{
    EditorState state = *this;
    state.width = std::clamp(state.width, kMinWidth, kMaxWidth);
    state.height = std::clamp(state.height, kMinHeight, kMaxHeight);
    state.shownLane = std::min(state.shownLane, kLaneCount - 1);
    state.timelineSeconds = std::isfinite(state.timelineSeconds) ? std::clamp(state.timelineSeconds, 1.0, 240.0) : 12.0;
    if (state.takes.size() > kMaxTakes)
        state.takes.resize(kMaxTakes);
    return state;
}

std::unique_ptr<juce::XmlElement> EditorState::toXml() const
{
    auto xml = std::make_unique<juce::XmlElement>("EDITOR");
    xml->setAttribute("width", width);
    xml->setAttribute("height", height);
    xml->setAttribute("lane", kLanes[shownLane].id);
    xml->setAttribute("seconds", timelineSeconds);
    xml->setAttribute("seed_locked", seedLocked ? 1 : 0);
    xml->setAttribute("preset", juce::String::fromUTF8(preset.c_str()));
    xml->setAttribute("frozen_folder", juce::String::fromUTF8(frozenFolder.c_str()));
    for (const Take& take : takes)
    {
        juce::XmlElement* child = xml->createNewChildElement("TAKE");
        child->setAttribute("seed", juce::String(take.seed));
        child->setAttribute("prompt", juce::String::fromUTF8(take.prompt.c_str()));
    }
    return xml;
}

EditorState EditorState::fromXml(const juce::XmlElement& xml)
{
    EditorState state;
    state.width = xml.getIntAttribute("width", state.width);
    state.height = xml.getIntAttribute("height", state.height);
    for (std::size_t i = 0; i < kLaneCount; ++i)
        if (xml.getStringAttribute("lane") == kLanes[i].id)
            state.shownLane = i;
    state.timelineSeconds = xml.getDoubleAttribute("seconds", state.timelineSeconds);
    state.seedLocked = xml.getBoolAttribute("seed_locked", false);
    state.preset = xml.getStringAttribute("preset").toStdString();
    if (const juce::String folder = xml.getStringAttribute("frozen_folder"); juce::File::isAbsolutePath(folder))
        state.frozenFolder = folder.toStdString();
    for (const juce::XmlElement* take : xml.getChildWithTagNameIterator("TAKE"))
        state.takes.push_back(
            {std::clamp<std::int64_t>(take->getStringAttribute("seed").getLargeIntValue(), 0, 4294967295LL),
             take->getStringAttribute("prompt").toStdString()});
    return state.sanitised();
}
} // namespace demon
