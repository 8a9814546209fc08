// SPDX-License-Identifier: AGPL-3.0-or-later
// Lane values as text, both ways.
#include <cmath>

#include "LaneText.h"
#include "PluginProcessor.h"
#include "catch.h"

using namespace demon;

namespace
{
const LaneInfo& denoise = kLanes[lane::denoise];
const LaneInfo& gain = kLanes[lane::output_gain];
const LaneInfo& guidance = kLanes[lane::guidance];
const LaneInfo& momentum = kLanes[lane::apg_momentum];
} // namespace

TEST_CASE("a lane is written with sensible digits and its unit")
{
    CHECK(laneText::text(denoise, 0.6f) == "60 %");
    CHECK(laneText::text(denoise, 0.605f) == "60.5 %");
    CHECK(laneText::text(denoise, 0.0f) == "0 %");
    CHECK(laneText::text(gain, -3.0f) == "-3.0 dB");
    CHECK(laneText::text(gain, -0.001f) == "0.0 dB");
    CHECK(laneText::text(guidance, 7.25f) == "7.25 x");
    CHECK(laneText::text(momentum, -0.75f) == "-0.75");
    CHECK(laneText::text(kLanes[lane::dcw_scaler], 0.05f) == "0.050");
    CHECK(laneText::text(kLanes[lane::feedback_depth], 3.0f) == "3");
    CHECK(laneText::digits(denoise, 0.6f) == "60");
}

TEST_CASE("a lane is read with or without unit, with point or comma, and by the word default")
{
    for (const char* text : {"0.6", "60 %", "60%", "0,6", "60", " 60,0 % ", "+0.6", ".6"})
        CHECK(laneText::value(denoise, text) == Approx(0.6f));
    CHECK(laneText::value(denoise, "1") == 1.0f);
    CHECK(laneText::value(denoise, "1 %") == Approx(0.01f));
    CHECK(laneText::value(denoise, "250") == 1.0f);
    CHECK(laneText::value(denoise, "Default") == denoise.defaultValue);
    for (const char* text : {"-3 dB", "-3db", "-3", "-3,0",
                             "\xe2\x88\x92"
                             "3 dB"})
        CHECK(laneText::value(gain, juce::String::fromUTF8(text)) == -3.0f);
    CHECK(laneText::value(gain, "-99") == -24.0f);
    CHECK(laneText::value(guidance, "1.5x") == 1.5f);
    CHECK(laneText::value(guidance, "150 %") == 1.5f);
    for (const char* text : {"", "loud", "3 Hz", "1-2", "1.2.3", "%", "-", "0.6 dB"})
        CHECK_FALSE(laneText::value(denoise, text).has_value());
}

TEST_CASE("what a lane writes it reads again, at every value and for every lane")
{
    for (const LaneInfo& lane : kLanes)
        for (int i = 0; i <= 50; ++i)
        {
            const float value = lane.min + (lane.max - lane.min) * static_cast<float>(i) / 50.0f;
            const juce::String text = laneText::text(lane, value);
            const auto read = laneText::value(lane, text);
            INFO(lane.id << " " << text);
            REQUIRE(read.has_value());
            CHECK(std::abs(*read - value) <= 0.051f * (lane.display == Display::decibel ? 1.0f : 0.1f));
            CHECK(laneText::text(lane, *read) == text);
        }
}

TEST_CASE("hosts write and read parameters in the lane's own words")
{
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    const PluginProcessor plugin;
    const auto& parameter = plugin.lanes()[lane::denoise];
    const juce::AudioProcessorParameter& asHost = parameter;
    CHECK(asHost.getText(parameter.convertTo0to1(0.6f), 32) == "60 %");
    CHECK(asHost.getLabel().isEmpty()); // the unit stands in the text: what a host hands back must mean the same
    CHECK(parameter.convertFrom0to1(asHost.getValueForText("60 %")) == Approx(0.6f));
    CHECK(parameter.convertFrom0to1(asHost.getValueForText("0,25")) == Approx(0.25f));
    CHECK(parameter.convertFrom0to1(asHost.getValueForText("what?")) == Approx(0.6f));
    const auto& level = plugin.lanes()[lane::output_gain];
    const juce::AudioProcessorParameter& hostLevel = level;
    CHECK(hostLevel.getText(level.convertTo0to1(-6.0f), 32) == "-6.0 dB");
    CHECK(level.convertFrom0to1(hostLevel.getValueForText("-6 dB")) == Approx(-6.0f));
}

TEST_CASE("times are written in s or ms and read in either")
{
    CHECK(timeText::text(4.0) == "4 s");
    CHECK(timeText::text(0.4) == "400 ms");
    CHECK(timeText::text(1.25) == "1.25 s");
    CHECK(timeText::text(0.0031) == "3.1 ms");
    CHECK(timeText::seconds("2 s") == Approx(2.0));
    CHECK(timeText::seconds("2,5") == Approx(2.5));
    CHECK(timeText::seconds("400ms") == Approx(0.4));
    CHECK_FALSE(timeText::seconds("soon").has_value());
}
