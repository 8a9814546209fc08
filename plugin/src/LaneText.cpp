// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LaneText.h"

#include <algorithm>
#include <cmath>

namespace demon
{
namespace
{
/// At most `places` decimals, without zeros at the end and without "-0".
juce::String shortest(double value, int places)
{
    const double scale = std::pow(10.0, places);
    const double rounded = std::round(value * scale) / scale;
    juce::String text(rounded == 0.0 ? 0.0 : rounded, places);
    if (text.containsChar('.'))
        text = text.trimCharactersAtEnd("0").trimCharactersAtEnd(".");
    return text;
}

juce::String fixed(double value, int places)
{
    const double scale = std::pow(10.0, places);
    const double rounded = std::round(value * scale) / scale;
    return juce::String(rounded == 0.0 ? 0.0 : rounded, places);
}

struct Number
{
    double value = 0.0;
    juce::String unit; ///< lower case
};

/// A number and what follows it; nothing when there is no number, or more than one.
std::optional<Number> parse(const juce::String& text)
{
    const juce::String clean =
        text.trim().replaceCharacter(',', '.').replace(juce::String::fromUTF8("\xe2\x88\x92"), "-");
    const juce::String digits = clean.initialSectionContainingOnly("+-.0123456789");
    if (!digits.containsAnyOf("0123456789") || digits.lastIndexOfAnyOf("+-") > 0 ||
        digits.indexOfChar('.') != digits.lastIndexOfChar('.'))
        return std::nullopt;
    return Number{digits.getDoubleValue(), clean.substring(digits.length()).trim().toLowerCase()};
}
} // namespace

juce::String laneText::unit(const LaneInfo& lane)
{
    return lane.display == Display::percent ? "%" : juce::String::fromUTF8(lane.unit);
}

juce::String laneText::digits(const LaneInfo& lane, float value)
{
    const auto plain = static_cast<double>(value);
    switch (lane.display)
    {
    case Display::percent:
        return shortest(100.0 * plain, 1);
    case Display::factor:
        return fixed(plain, 2);
    case Display::decibel:
        return fixed(plain, 1);
    case Display::count:
        return shortest(plain, 2);
    case Display::plain:
        break;
    }
    return lane.max - lane.min <= 1.0f ? fixed(plain, 3) : fixed(plain, 2);
}

juce::String laneText::text(const LaneInfo& lane, float value)
{
    const juce::String suffix = unit(lane);
    return suffix.isEmpty() ? digits(lane, value) : digits(lane, value) + " " + suffix;
}

std::optional<float> laneText::value(const LaneInfo& lane, const juce::String& text)
{
    if (text.trim().equalsIgnoreCase("default"))
        return lane.defaultValue;
    const auto number = parse(text);
    if (!number)
        return std::nullopt;
    double plain = number->value;
    if (number->unit == "%")
        plain /= 100.0; // of a factor as well: 150 % is 1.5 x
    else if (number->unit.isNotEmpty() && number->unit != unit(lane).toLowerCase())
        return std::nullopt;
    else if (number->unit.isEmpty() && lane.display == Display::percent && std::abs(plain) > lane.max)
        plain /= 100.0;
    return static_cast<float>(std::clamp<double>(plain, lane.min, lane.max));
}

juce::String timeText::text(double seconds)
{
    return std::abs(seconds) < 1.0 ? shortest(1000.0 * seconds, std::abs(seconds) < 0.01 ? 1 : 0) + " ms"
                                   : shortest(seconds, 2) + " s";
}

std::optional<double> timeText::seconds(const juce::String& text)
{
    const auto number = parse(text);
    if (!number)
        return std::nullopt;
    if (number->unit == "ms")
        return number->value / 1000.0;
    if (number->unit == "min")
        return number->value * 60.0;
    return number->unit.isEmpty() || number->unit == "s" || number->unit == "sec" ? std::optional(number->value)
                                                                                  : std::nullopt;
}
} // namespace demon
