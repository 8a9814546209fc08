// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ProcessorModels.h"

#include <algorithm>

#include "../StatusText.h"

namespace demon
{
namespace
{
juce::String utf8(const std::string& text) { return juce::String::fromUTF8(text.c_str()); }

EngineState stateOf(LinkState state)
{
    switch (state)
    {
    case LinkState::waiting:
    case LinkState::lost:
        return EngineState::absent;
    case LinkState::ready:
        return EngineState::ready;
    case LinkState::refused:
        return EngineState::refused;
    case LinkState::idle:
        break;
    }
    return EngineState::idle;
}
} // namespace

EditorModels ProcessorModels::models()
{
    return {processor.editing(), *this, status, processor.timeline(), processor.lanes().bypass()};
}

EngineView ProcessorModels::view() const
{
    const LinkStatus link = processor.linkStatus();
    const Settings settings = processor.settings();
    actedLanes = link.engine.lanes;
    EngineView view;
    view.state = stateOf(link.state);
    view.model = utf8(link.engine.checkpoint);
    view.backend = utf8(link.engine.backend);
    view.endpoint = utf8(settings.endpoint);
    if (link.roundTripNanoseconds > 0)
        view.roundTrip = static_cast<double>(link.roundTripNanoseconds) * 1e-9;
    view.lateWindows = processor.telemetry().lateFrames;
    view.latency = settings.latencySeconds;
    if (link.state == LinkState::ready)
        view.minimumLatency = static_cast<double>(link.engine.minimumLatency) / kFramesPerSecond;
    view.late = settings.latePolicy;
    view.timeout = settings.timeoutSeconds;
    return view;
}

LaneFacts ProcessorModels::facts(std::size_t lane) const
{
    LaneFacts facts;
    if (isWireLane(kLanes[lane]))
    {
        facts.acts = actedLanes.empty() || // nothing is known
                     std::find(actedLanes.begin(), actedLanes.end(), kLanes[lane].id) != actedLanes.end();
        facts.reason = facts.acts ? "" : "not in this engine";
    }
    return facts;
}

void ProcessorModels::setLatency(double seconds)
{
    Settings wanted = processor.settings();
    wanted.latencySeconds = seconds;
    processor.changeSettings(wanted);
}

void ProcessorModels::setLatePolicy(LatePolicy policy)
{
    Settings wanted = processor.settings();
    wanted.latePolicy = policy;
    processor.changeSettings(wanted);
}

void ProcessorModels::setTimeout(double seconds)
{
    Settings wanted = processor.settings();
    wanted.timeoutSeconds = seconds;
    processor.changeSettings(wanted);
}

void ProcessorModels::setEndpoint(const juce::String& endpoint)
{
    Settings wanted = processor.settings();
    wanted.endpoint = endpoint.toStdString();
    processor.changeSettings(wanted);
}

StatusView ProcessorModels::Status::view() const
{
    const LinkStatus link = processor.linkStatus();
    const juce::String line = statusLine(processor, link);
    StatusView view;
    view.canAcknowledge = !link.errorCode.empty() || processor.telemetry().timedOut;
    view.text = line;
    if (line.startsWith("E_"))
    {
        view.severity = Severity::error;
        view.code = line.upToFirstOccurrenceOf(":", false, false);
        view.text = line.fromFirstOccurrenceOf(": ", false, false);
    }
    else if (link.state == LinkState::waiting || link.state == LinkState::lost || link.state == LinkState::refused)
    {
        view.severity = Severity::warning;
    }
    view.detail = detailLine(processor, link);
    return view;
}
} // namespace demon
