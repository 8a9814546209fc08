// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>
#include <optional>

#include "demon/lanes.h"

namespace demon
{
/// Lane values as text, both ways. Any thread.
///
/// Read: a number with a point or a comma, with or without the unit ("0.6", "0,6", "60 %", "-3 dB", "1.5x"), or
/// "default". A percent lane takes a bare number that lies in its range as the plain value, any other as percent:
/// "0.6" and "60" are the same.
namespace laneText
{
juce::String unit(const LaneInfo& lane);                ///< "%", "x", "dB" or nothing
juce::String digits(const LaneInfo& lane, float value); ///< without the unit: "60"
juce::String text(const LaneInfo& lane, float value);   ///< "60 %"

/// The value inside the lane's range; nothing when `text` is no value.
std::optional<float> value(const LaneInfo& lane, const juce::String& text);
} // namespace laneText

/// Times as text: "4 s", "400 ms".
namespace timeText
{
juce::String text(double seconds);
std::optional<double> seconds(const juce::String& text); ///< a bare number is seconds
} // namespace timeText
} // namespace demon
