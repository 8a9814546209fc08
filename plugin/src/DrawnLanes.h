// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <functional>
#include <juce_core/juce_core.h>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "Guarded.h"
#include "UndoHistory.h"

namespace demon
{
/// What the user has drawn over the clip, by lane: the plugin's own record of it, which the project keeps. Frames that
/// were never drawn are NaN and follow the host.
///
/// Any thread but the audio thread; edits are the message thread's.
class DrawnLanes
{
public:
    static constexpr std::int64_t kMaxFrames = 240 * 25;

    explicit DrawnLanes(UndoHistory& undoHistory);

    /// Where edits go: values for the frames of the clip from `first` on; NaN hands a frame back to the host.
    std::function<void(std::size_t lane, std::int64_t first, const std::vector<float>& values)> send;

    /// Draws one step of the undo history. Values are brought into the lane's range.
    void draw(std::size_t lane, std::int64_t first, const std::vector<float>& values);

    /// A stroke of many draws is one step: begin, any number of draws, end.
    void beginStroke(std::size_t lane);
    void endStroke();

    /// Hands the frames [first, end) back to the host.
    void erase(std::size_t lane, std::int64_t first, std::int64_t end);

    std::vector<float> curve(std::size_t lane) const; ///< from frame 0; as long as was drawn
    bool hasCurve(std::size_t lane) const;

    void clear();
    void sendAll() const; ///< after a restored project or a new connection of `send`

    std::unique_ptr<juce::XmlElement> toXml() const;
    void fromXml(const juce::XmlElement& xml);

private:
    using Curves = std::map<std::size_t, std::vector<float>>;

    void put(std::size_t lane, std::int64_t first, const std::vector<float>& values);

    UndoHistory& history;
    Guarded<Curves> curves;
    std::optional<std::size_t> strokeLane;
    std::vector<float> beforeStroke;
};
} // namespace demon
