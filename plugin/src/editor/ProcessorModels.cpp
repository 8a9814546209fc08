// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ProcessorModels.h"

#include <algorithm>

#include "../StatusText.h"

namespace demon
{
namespace
{
juce::String utf8(const std::string& text) { return juce::String::fromUTF8(text.c_str()); }

double seconds(std::int64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

std::optional<double> positive(double value) { return value > 0.0 ? std::optional(value) : std::nullopt; }

EngineState stateOf(LinkState link, const EngineReport& launch, bool isFrozen)
{
    if (isFrozen)
        return EngineState::unneeded;
    switch (link)
    {
    case LinkState::waiting:
    case LinkState::lost:
        return launch.state != LaunchState::starting ? EngineState::absent
               : launch.progress                     ? EngineState::warming
                                                     : EngineState::starting;
    case LinkState::ready:
        return EngineState::ready;
    case LinkState::refused:
        return EngineState::refused;
    case LinkState::idle:
        break;
    }
    return EngineState::idle;
}

/// A loop's step-time lane is heard after the ticks to the next completion; measured, once there was an edit.
std::optional<double> loopLatency(const LaneInfo& lane, const LinkStatus& link)
{
    if (lane.laneClass == LaneClass::step)
        return positive(seconds(link.controlNanoseconds));
    return link.generations > 0.0 ? std::optional(1.0 / link.generations + seconds(link.controlNanoseconds))
                                  : std::nullopt;
}
} // namespace

EditorModels ProcessorModels::models()
{
    return {processor.editing(), engine,  status, processor.timeline(), processor.lanes().bypass(), &mode, &clip,
            &references,         &output, &render};
}

EngineView ProcessorModels::Engine::view() const
{
    link = processor.linkStatus();
    settings = processor.settings();
    const EngineReport launch = processor.engineStart().report();
    EngineView view;
    view.state = stateOf(link.state, launch, processor.frozen().isFrozen());
    view.model = utf8(link.engine.checkpoint);
    view.backend = utf8(link.engine.backend);
    view.endpoint = utf8(settings.endpoint);
    view.warmUp = launch.progress;
    if (link.state == LinkState::ready)
    {
        view.ticks = positive(link.ticks);
        view.generations = positive(link.generations);
        view.roundTrip = positive(seconds(link.roundTripNanoseconds));
        view.minimumLatency = static_cast<double>(link.engine.minimumLatency) / kFramesPerSecond;
        view.steps = link.engine.steps;
        view.loraNames = link.engine.loraNames;
        view.loraHashes = link.engine.loras;
    }
    view.controlToSound = settings.mode == PlayMode::loop ? positive(seconds(link.controlNanoseconds))
                                                          : std::optional(settings.latencySeconds);
    view.lateWindows = processor.telemetry().lateFrames;
    view.latency = settings.latencySeconds;
    view.late = settings.latePolicy;
    view.timeout = settings.timeoutSeconds;
    view.canStart = launch.state == LaunchState::needsConsent || launch.state == LaunchState::gaveUp;
    view.startsByItself = processor.engineStart().startsByItself();
    return view;
}

LaneFacts ProcessorModels::Engine::facts(std::size_t lane) const
{
    LaneFacts facts;
    if (!isWireLane(kLanes[lane]))
        return facts;
    const std::vector<std::string>& acted = link.engine.lanes; // empty: nothing is known
    facts.acts = acted.empty() || std::find(acted.begin(), acted.end(), kLanes[lane].id) != acted.end();
    facts.reason = facts.acts                          ? ""
                   : settings.mode == PlayMode::stream ? "not in Stream with this engine"
                                                       : "not in this engine";
    facts.latency =
        settings.mode == PlayMode::loop ? loopLatency(kLanes[lane], link) : std::optional(settings.latencySeconds);
    return facts;
}

StatusView ProcessorModels::Status::view() const
{
    const LinkStatus link = processor.linkStatus();
    const juce::String line = statusLine(processor, link);
    StatusView view;
    view.canAcknowledge = processor.hasErrors();
    view.text = line;
    if (line.startsWith("E_"))
    {
        view.severity = Severity::error;
        view.code = line.upToFirstOccurrenceOf(":", false, false);
        view.text = line.fromFirstOccurrenceOf(": ", false, false);
    }
    else if (link.state == LinkState::waiting || link.state == LinkState::lost || link.state == LinkState::refused)
    {
        const bool isStarting = processor.engineStart().report().state == LaunchState::starting;
        view.severity = isStarting && link.state != LinkState::refused ? Severity::busy : Severity::warning;
    }
    view.detail = detailLine(processor, link);
    return view;
}

LoopView ProcessorModels::Clip::view() const
{
    LoopView view;
    const Settings settings = processor.settings();
    view.cycles = settings.cycles;
    view.feedbackRounds = static_cast<int>(settings.config.feedbackRounds);
    view.bounceIsStale = processor.telemetry().commitStale;
    if (const std::int64_t limit = processor.linkStatus().engine.clipLimit; limit > 0)
        view.limitSeconds = static_cast<double>(limit) / kFramesPerSecond;
    const auto loop = processor.loop();
    const LoopState state = loop != nullptr ? loop->signs.state.load() : LoopState::empty;
    if (state == LoopState::armed || state == LoopState::capturing)
    {
        view.state = ClipState::capturing;
        return view;
    }
    const ClipSource clip = processor.clip().clip();
    if (clip.source != nullptr)
    {
        view.state = ClipState::ready;
        view.first = clip.source->firstFrame;
        view.frames = clip.source->frames;
    }
    return view;
}

juce::String ProcessorModels::Clip::load(const juce::File& file)
{
    processor.clip().load(file.getFullPathName().toStdString(), processor.playheadFrame(), processor.wireLanes());
    return {};
}

ReferenceView ProcessorModels::References::view(ReferenceKind kind) const
{
    const Settings settings = processor.settings();
    const ReferenceChoice& choice = kind == ReferenceKind::timbre ? settings.extras.timbre : settings.extras.structure;
    ReferenceView view;
    view.name = utf8(choice.name);
    if (const auto problem = processor.references().problem(kind))
        view.problem = utf8(problem->text);
    else if (!choice.isEmpty() && !processor.references().has(choice.hash))
        view.problem = "E_REFERENCE: its audio is missing: drop the file again";
    if (processor.references().isLoading(kind))
        view.progress = 0.5;
    return view;
}

juce::String ProcessorModels::References::load(ReferenceKind kind, const juce::File& file)
{
    processor.references().load(kind, file.getFullPathName().toStdString());
    return {};
}

OutputView ProcessorModels::Output::take()
{
    const Settings settings = processor.settings();
    Meters& meters = processor.meters();
    OutputView view;
    view.input = {meters.input.takePeak(0), meters.input.takePeak(1)};
    view.output = {meters.output.takePeak(0), meters.output.takePeak(1)};
    view.matchesLoudness = settings.matchesLoudness;
    view.limits = settings.limits;
    view.limitsBounces = settings.limitsBounces;
    return view;
}

/// The gain is what was measured when the user asked, and stays: a bounce must not depend on what sounded before it.
void ProcessorModels::Output::setLoudnessMatch(bool wanted)
{
    const float suggested = processor.telemetry().suggestedMatchDb;
    edit(
        [&](Settings& s)
        {
            s.matchesLoudness = wanted;
            s.matchGain = wanted ? static_cast<double>(suggested) : 0.0;
        });
}
} // namespace demon
