// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_core/juce_core.h>

#include "PluginProcessor.h"

namespace demon
{
/// The status line: the most urgent thing first, always with its stable code.
inline juce::String statusLine(const PluginProcessor& processor, const LinkStatus& link)
{
    if (!processor.isRateSupported())
        return juce::String(error::sampleRate) + ": this sample rate is not a multiple of 25 between 8000 and 192000";
    if (const auto problem = processor.frozen().problem())
        return juce::String(problem->code) + ": " + juce::String::fromUTF8(problem->text.c_str());
    const bool timedOut = processor.telemetry().timedOut;
    if (!link.errorCode.empty())
        return juce::String(link.errorCode) + ": " + juce::String::fromUTF8(link.errorText.c_str()) +
               (timedOut ? ". The bounce is dry from there on" : "");
    if (processor.telemetry().noClip)
        return "E_CLIP: there is no clip to bounce, and the dry signal passed: capture one first";
    if (timedOut)
        return "E_TIMEOUT: the engine did not answer, the bounce is dry from there on. Start it (demon serve) and "
               "bounce again";
    if (const auto problem = processor.problem())
        return juce::String(problem->code) + ": " + juce::String::fromUTF8(problem->text.c_str());
    switch (link.state)
    {
    case LinkState::idle:
        return processor.frozen().isFrozen() ? "Frozen: no engine is needed" : "Waiting for the host";
    case LinkState::waiting:
    case LinkState::lost:
        if (const EngineReport launch = processor.engineStart().report(); launch.state == LaunchState::starting)
            return "Starting the engine" +
                   juce::String::fromUTF8(launch.text.empty() ? "" : (": " + launch.text).c_str());
        return "No engine at " + juce::String(processor.engineEndpoint()) + ": start it with demon serve";
    case LinkState::refused:
        return "The engine refuses this track";
    case LinkState::ready:
        break;
    }
    return "Ready: " + juce::String::fromUTF8(link.engine.checkpoint.c_str()) + ", " +
           juce::String::fromUTF8(link.engine.backend.c_str());
}

/// Numbers: late windows, round trip, and how coarsely the host's blocks sample the automation.
inline juce::String detailLine(const PluginProcessor& processor, const LinkStatus& link)
{
    const Telemetry& numbers = processor.telemetry();
    juce::String text = "received " + juce::String(link.windows) + " frames, late " +
                        juce::String(numbers.lateFrames.load()) + ", round trip " +
                        juce::String(static_cast<double>(link.roundTripNanoseconds) * 1e-6, 1) + " ms";
    const double rate = processor.getSampleRate();
    const double blockMilliseconds = rate > 0 ? 1000.0 * processor.longestBlock() / rate : 0.0;
    if (blockMilliseconds > 1000.0 / kFramesPerSecond)
        text << ". Long host blocks: automation sampled every " << juce::roundToInt(blockMilliseconds) << " ms";
    if (numbers.nonFiniteSamples > 0)
        text << ". Input had " << juce::String(numbers.nonFiniteSamples.load()) << " invalid samples";
    return text;
}
} // namespace demon
