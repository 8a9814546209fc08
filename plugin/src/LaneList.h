// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_gui_basics/juce_gui_basics.h>
#include <memory>
#include <string>
#include <vector>

#include "LaneParameters.h"

namespace demon
{
/// One row per lane: name and slider, with the lane's help as tooltip. Message thread only.
class LaneList : public juce::Component
{
public:
    explicit LaneList(const LaneParameters& lanes);
    ~LaneList() override;

    /// Greys out the lanes that the engine does not act on. No ids: nothing is known, all stay enabled.
    void showEngineLanes(const std::vector<std::string>& ids);

    void resized() override;

private:
    struct Row;
    std::vector<std::unique_ptr<Row>> rows;
    std::vector<std::string> shownIds;
};
} // namespace demon
