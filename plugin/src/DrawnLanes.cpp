// SPDX-License-Identifier: AGPL-3.0-or-later
#include "DrawnLanes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/WireLanes.h"

namespace demon
{
namespace
{
constexpr float kNotDrawn = std::numeric_limits<float>::quiet_NaN();

/// NaN equals NaN here.
bool sameValue(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }
} // namespace

DrawnLanes::DrawnLanes(UndoHistory& undoHistory) : history(undoHistory)
{
    history.drawCurve = [this](std::size_t lane, std::int64_t first, const std::vector<float>& values)
    { put(lane, first, values); };
}

void DrawnLanes::put(std::size_t lane, std::int64_t first, const std::vector<float>& values)
{
    if (first < 0 || first >= kMaxFrames || lane >= kLaneCount)
        return;
    std::vector<float> settled(
        values.begin(),
        values.begin() + std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(values.size()), kMaxFrames - first));
    for (float& value : settled)
        value = std::isnan(value) ? kNotDrawn : settledLaneValue(kLanes[lane], value);
    curves.change(
        [&](Curves& all)
        {
            std::vector<float>& curve = all[lane];
            const auto at = static_cast<std::size_t>(first);
            curve.resize(std::max(curve.size(), at + settled.size()), kNotDrawn);
            std::copy(settled.begin(), settled.end(), curve.begin() + first);
            while (!curve.empty() && std::isnan(curve.back()))
                curve.pop_back();
            if (curve.empty())
                all.erase(lane);
        });
    if (send)
        send(lane, first, settled);
}

void DrawnLanes::draw(std::size_t lane, std::int64_t first, const std::vector<float>& values)
{
    const bool isOneDraw = strokeLane != lane;
    if (isOneDraw)
        beginStroke(lane);
    put(lane, first, values);
    if (isOneDraw)
        endStroke();
}

void DrawnLanes::beginStroke(std::size_t lane)
{
    strokeLane = lane;
    beforeStroke = curve(lane);
}

void DrawnLanes::endStroke()
{
    if (!strokeLane)
        return;
    const std::size_t lane = *std::exchange(strokeLane, std::nullopt);
    std::vector<float> after = curve(lane);
    const std::size_t length = std::max(beforeStroke.size(), after.size());
    beforeStroke.resize(length, kNotDrawn);
    after.resize(length, kNotDrawn);
    std::size_t first = 0, end = length; // only what differs
    while (first < end && sameValue(beforeStroke[first], after[first]))
        ++first;
    while (end > first && sameValue(beforeStroke[end - 1], after[end - 1]))
        --end;
    const auto cut = [&](const std::vector<float>& values)
    {
        return std::vector<float>(values.begin() + static_cast<std::ptrdiff_t>(first),
                                  values.begin() + static_cast<std::ptrdiff_t>(end));
    };
    if (first < end)
        history.recordCurve({lane, static_cast<std::int64_t>(first), cut(beforeStroke), cut(after)});
}

void DrawnLanes::erase(std::size_t lane, std::int64_t first, std::int64_t end)
{
    if (end > first)
        draw(lane, first, std::vector<float>(static_cast<std::size_t>(end - first), kNotDrawn));
}

std::vector<float> DrawnLanes::curve(std::size_t lane) const
{
    return curves.read(
        [&](const Curves& all)
        {
            const auto found = all.find(lane);
            return found == all.end() ? std::vector<float>() : found->second;
        });
}

bool DrawnLanes::hasCurve(std::size_t lane) const { return !curve(lane).empty(); }

void DrawnLanes::clear() { curves.set({}); }

void DrawnLanes::sendAll() const
{
    if (send)
        for (const auto& [lane, values] : curves.get())
            send(lane, 0, values);
}

std::unique_ptr<juce::XmlElement> DrawnLanes::toXml() const
{
    auto xml = std::make_unique<juce::XmlElement>("DRAWN");
    for (const auto& [lane, values] : curves.get())
    {
        juce::XmlElement* curve = xml->createNewChildElement("CURVE");
        curve->setAttribute("id", kLanes[lane].id);
        curve->setAttribute("float32", juce::Base64::toBase64(values.data(), values.size() * sizeof(float)));
    }
    return xml;
}

void DrawnLanes::fromXml(const juce::XmlElement& xml)
{
    Curves restored;
    for (const juce::XmlElement* curve : xml.getChildWithTagNameIterator("CURVE"))
        for (std::size_t lane = 0; lane < kLaneCount; ++lane)
        {
            juce::MemoryOutputStream bytes;
            if (curve->getStringAttribute("id") != kLanes[lane].id ||
                !juce::Base64::convertFromBase64(bytes, curve->getStringAttribute("float32")))
                continue;
            std::vector<float> values(std::min(bytes.getDataSize() / sizeof(float), std::size_t{kMaxFrames}));
            if (values.empty())
                continue;
            std::memcpy(values.data(), bytes.getData(), values.size() * sizeof(float));
            for (float& value : values)
                value = std::isfinite(value) ? settledLaneValue(kLanes[lane], value) : kNotDrawn;
            restored[lane] = std::move(values);
        }
    curves.set(std::move(restored));
    sendAll();
}
} // namespace demon
