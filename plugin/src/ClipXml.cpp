// SPDX-License-Identifier: AGPL-3.0-or-later
//
//   <CLIP rate="48000" first="0" frames="250" name="riff.wav">
//     <AUDIO>...</AUDIO>                        [2, frames * rate / 25], SavedAudio.h
//     <LANE id="denoise" drawn="0" value="0.6"/>  a lane that does not move
//     <LANE id="guidance" drawn="1">...           one that does: [frames], SavedAudio.h
//       <RECORD value="1"/>                       what the host played, where it differs
//     </LANE>
//   </CLIP>
#include "ClipXml.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "SavedAudio.h"

namespace demon
{
namespace
{
void valuesToXml(juce::XmlElement& xml, const std::vector<float>& values)
{
    if (std::all_of(values.begin(), values.end(), [&](float value) { return value == values.front(); }))
        xml.setAttribute("value", static_cast<double>(values.front()));
    else
        xml.addTextElement(savedAudio::pack(values.data(), values.size()));
}

void lanesToXml(juce::XmlElement& xml, const LaneTable& table)
{
    const std::vector<std::string> ids = wireLaneIds();
    for (std::size_t column = 0; column < kWireLaneCount; ++column)
    {
        juce::XmlElement* lane = xml.createNewChildElement("LANE");
        lane->setAttribute("id", juce::String(ids[column]));
        lane->setAttribute("drawn", table.isDrawn(column) ? 1 : 0);
        std::vector<float> values, recorded;
        for (std::int64_t frame = table.firstFrame(); frame < table.end(); ++frame)
        {
            values.push_back(table.at(column, frame));
            recorded.push_back(table.recordedAt(column, frame));
        }
        valuesToXml(*lane, values);
        if (recorded != values)
            valuesToXml(*lane->createNewChildElement("RECORD"), recorded);
    }
}

/// The values of one lane in all frames of a clip; an empty vector when they are damaged.
std::vector<float> valuesFromXml(const juce::XmlElement& xml, std::int64_t frames, const LaneInfo& info)
{
    std::vector<float> values;
    juce::String packed;
    for (const juce::XmlElement* child : xml.getChildIterator())
        if (child->isTextElement())
            packed << child->getText();
    if (xml.hasAttribute("value"))
        values.assign(static_cast<std::size_t>(frames), static_cast<float>(xml.getDoubleAttribute("value")));
    else if (!savedAudio::unpack(packed, static_cast<std::size_t>(frames), values))
        return {};
    for (float& value : values)
        value = settledLaneValue(info, std::isfinite(value) ? value : info.defaultValue);
    return values;
}

/// Lanes by their ids: what is missing, damaged or unknown here has its default.
std::shared_ptr<LaneTable> lanesFromXml(const juce::XmlElement& xml, std::int64_t firstFrame, std::int64_t frames)
{
    WireLaneValues defaults{};
    std::array<const LaneInfo*, kWireLaneCount> infos{};
    std::size_t next = 0;
    for (const LaneInfo& info : kLanes)
        if (isWireLane(info))
        {
            infos[next] = &info;
            defaults[next++] = info.defaultValue;
        }
    const auto table = std::make_shared<LaneTable>(LaneTable::held(firstFrame, frames, defaults));
    for (const juce::XmlElement* lane : xml.getChildWithTagNameIterator("LANE"))
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
        {
            if (lane->getStringAttribute("id") != infos[column]->id)
                continue;
            const std::vector<float> values = valuesFromXml(*lane, frames, *infos[column]);
            std::vector<float> recorded = values; // also of a project from before there was a record
            if (const juce::XmlElement* record = lane->getChildByName("RECORD"))
                if (std::vector<float> kept = valuesFromXml(*record, frames, *infos[column]); !kept.empty())
                    recorded = std::move(kept);
            for (std::size_t i = 0; i < values.size(); ++i)
            {
                const std::int64_t frame = firstFrame + static_cast<std::int64_t>(i);
                table->apply(
                    {0, static_cast<std::int32_t>(column), frame, frame + 1, values[i], recorded[i], false, 0});
            }
            if (!values.empty())
                table->setDrawn(column, lane->getBoolAttribute("drawn"));
        }
    return table;
}
} // namespace

std::unique_ptr<juce::XmlElement> clipToXml(const NamedClip& named, const juce::String& packedAudio)
{
    const ClipAudio& source = *named.clip.source;
    auto xml = std::make_unique<juce::XmlElement>("CLIP");
    xml->setAttribute("rate", source.rate);
    xml->setAttribute("first", juce::String(source.firstFrame));
    xml->setAttribute("frames", juce::String(source.frames));
    xml->setAttribute("name", juce::String::fromUTF8(named.name.c_str()));
    xml->createNewChildElement("AUDIO")->addTextElement(packedAudio);
    lanesToXml(*xml, *named.clip.lanes);
    return xml;
}

NamedClip clipFromXml(const juce::XmlElement& xml)
{
    auto audio = std::make_shared<ClipAudio>();
    audio->rate = xml.getIntAttribute("rate");
    audio->firstFrame = xml.getStringAttribute("first").getLargeIntValue();
    audio->frames = xml.getStringAttribute("frames").getLargeIntValue();
    const juce::XmlElement* text = xml.getChildByName("AUDIO");
    const bool isPlausible = isSupportedRate(audio->rate) && audio->frames > 0 && audio->frames <= kMostClipFrames;
    if (!isPlausible || text == nullptr ||
        !savedAudio::unpack(text->getAllSubText(), 2 * audio->samples(), audio->audio))
        return {};
    NamedClip restored;
    restored.clip.lanes = lanesFromXml(xml, audio->firstFrame, audio->frames);
    restored.clip.source = std::move(audio);
    restored.name = xml.getStringAttribute("name").toStdString();
    return restored;
}
} // namespace demon
