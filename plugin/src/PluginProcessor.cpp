// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginProcessor.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "PluginEditor.h"

namespace demon
{
namespace
{
constexpr int kHouseworkHz = 10;
constexpr int kScratchSamples = 8192; // a mono host's longer blocks are processed in parts of this

RecorderLimits limitsOf(const UserSettings& user)
{
    RecorderLimits limits;
    limits.diskBytes = static_cast<std::uint64_t>(user.renderBudgetMegabytes) << 20;
    limits.keepsLive = user.keepsLiveRenders;
    return limits;
}

bool isMonoOrStereo(const juce::AudioChannelSet& channels)
{
    return channels == juce::AudioChannelSet::mono() || channels == juce::AudioChannelSet::stereo();
}
} // namespace

PluginProcessor::PluginProcessor()
    : AudioProcessor(BusesProperties()
                         .withInput("Input", juce::AudioChannelSet::stereo(), true)
                         .withOutput("Output", juce::AudioChannelSet::stereo(), true)),
      current(environment::initialSettings()), second(kScratchSamples), user(UserSettingsFile().load()),
      recorder(user.renders(), limitsOf(user)),
      link(environment::overridden(current).endpoint, "DEMON " DEMON_VERSION, current.config, &recorder),
      referenceAudio([this](ReferenceKeeper::Known known) { link.setReferences(std::move(known)); },
                     [this](ReferenceKind kind, const ReferenceChoice& choice)
                     {
                         Settings wanted = settings();
                         (kind == ReferenceKind::timbre ? wanted.extras.timbre : wanted.extras.structure) = choice;
                         changeSettings(wanted);
                     }),
      clips(link, epochs), freezer(user.frozen(), [this] { restartPlayer(); })
{
    edits.drawn.send = [this](std::size_t lane, std::int64_t first, const std::vector<float>& values)
    { sendDrawing(lane, first, values); };
    applySettings(current);
    startTimerHz(kHouseworkHz);
}

PluginProcessor::~PluginProcessor() { stopTimer(); }

SettingsAccess PluginProcessor::makeSettingsAccess()
{
    return {[this] { return settings(); }, [this](const Settings& wanted) { changeSettings(wanted); },
            [this](const Settings& wanted) { applySettings(wanted); }};
}

bool PluginProcessor::isBusesLayoutSupported(const BusesLayout& layout) const
{
    // A VST3 host may ask for the latency at the new rate before it activates the plugin (pedalboard and every other
    // host built with JUCE 7 does). Between the new rate and that question JUCE calls nothing that is virtual but this.
    const_cast<PluginProcessor*>(this)->announceLatency();
    const auto in = layout.getMainInputChannelSet(), out = layout.getMainOutputChannelSet();
    return isMonoOrStereo(in) && isMonoOrStereo(out) && in.size() <= out.size();
}

void PluginProcessor::announceLatency()
{
    const Settings now = settings();
    if (getSampleRate() > 0.0)
        setLatencySamples(now.mode == PlayMode::loop ? 0
                                                     : now.latencyFrames() * FrameGrid::forRate(streamRate()).length);
}

/// An unsupported rate gets a stream that only delays: it still needs frames of some length.
int PluginProcessor::streamRate() const
{
    return std::max(static_cast<int>(std::lround(getSampleRate())), kMinRate / 2);
}

void PluginProcessor::prepareToPlay(double, int)
{
    longest = 0;
    playing = nullptr; // the audio thread rests: what it plays next starts afresh
    tail.reset();
    int latency = 0;
    freezer.setRate(streamRate());
    {
        const std::lock_guard lock(mutex);
        latency = startPlayer(false);
    }
    setLatencySamples(latency); // the host may call back from here
}

/// Builds the player for the host's rate and the wanted mode and latency. While audio runs, the audio thread takes it
/// over at its next block. The mutex is held. Returns the latency in samples.
int PluginProcessor::startPlayer(bool audioIsRunning)
{
    const int rate = streamRate();
    rateIsSupported = isSupportedRate(rate);
    if (keepsLoop(rate))
    {
        newest->requestReset();
        return 0;
    }
    clips.remember();
    newest = makePlayer(rate);
    if (audioIsRunning)
        players.offer(newest);
    else
        players.replace(newest);
    if (rateIsSupported)
        link.attach(newest->port());
    clips.attach(newest->loop());
    if (newest->loop() != nullptr && environment::capturesAtOnce() && clips.clip().source == nullptr)
        clips.capture();
    return newest->latencySamples();
}

/// The mutex is held.
std::shared_ptr<Player> PluginProcessor::makePlayer(int rate)
{
    const bool loops = current.mode == PlayMode::loop;
    if (freezer.isFrozen())
    {
        const ClipSource clip = loops ? clips.clip() : ClipSource{};
        FrozenClip frozenClip;
        if (clip.source != nullptr)
            frozenClip = {clip.source, std::make_shared<const LaneTable>(*clip.lanes)};
        return std::make_shared<Player>(std::make_shared<FrozenPlayer>(
            rate, loops ? 0 : current.latencyFrames(), frozenAudioOf(freezer.take(rate)), numbers, frozenClip));
    }
    if (loops)
        return std::make_shared<Player>(std::make_shared<Loop>(rate, epochs, numbers));
    return std::make_shared<Player>(std::make_shared<Stream>(rate, current.latencyFrames(), epochs, numbers));
}

/// There is something else to play at the same latency.
void PluginProcessor::restartPlayer()
{
    starter.setNeeded(!freezer.isFrozen());
    const std::lock_guard lock(mutex);
    if (!players.isEmpty())
        startPlayer(true);
}

void PluginProcessor::setFrozen(bool wanted)
{
    if (wanted)
        freezer.freeze(recorder.lastComplete(), editing().editor.get().frozenFolder);
    else
        freezer.thaw();
    updateHostDisplay(ChangeDetails().withNonParameterStateChanged(true));
}

bool PluginProcessor::isFrozenStale() const
{
    const auto take = freezer.take(streamRate());
    if (take == nullptr)
        return false;
    const Settings now = settings();
    const std::string& madeBy = take->receipt.engine.checkpointSha256;
    if (take->receipt.config != environment::overridden(now).config ||
        (!now.checkpointHash.empty() && !madeBy.empty() && madeBy != now.checkpointHash))
        return true;
    const std::lock_guard lock(mutex);
    return newest != nullptr && newest->frozen() != nullptr && newest->frozen()->stale().staleFrames() > 0;
}

/// A Loop that plays at this rate goes on, and with it what is captured just now. The mutex is held.
bool PluginProcessor::keepsLoop(int rate) const
{
    return newest != nullptr && newest->loop() != nullptr && newest->loop()->rate == rate && rateIsSupported &&
           current.mode == PlayMode::loop && !freezer.isFrozen();
}

std::shared_ptr<Loop> PluginProcessor::loop() const
{
    const std::lock_guard lock(mutex);
    return newest != nullptr ? newest->loop() : nullptr;
}

std::int64_t PluginProcessor::playheadFrame() const noexcept
{
    return FrameGrid::forRate(streamRate()).frameOf(hostSample.load(std::memory_order_relaxed));
}

WireLaneValues PluginProcessor::wireLanes() const
{
    Controls controls;
    parameters.read(controls);
    return wireLanesOf(controls.lanes);
}

/// Drawn over the clip, whose frames count from its first. A lane on which nothing is drawn any more follows the host.
void PluginProcessor::sendDrawing(std::size_t lane, std::int64_t first, const std::vector<float>& values)
{
    const ClipSource clip = clips.clip();
    if (!isWireLane(kLanes[lane]) || clip.source == nullptr)
        return;
    if (edits.drawn.hasCurve(lane))
        clips.draw(wireColumnOf(lane), clip.source->firstFrame + first, values);
    else
        clips.draw(wireColumnOf(lane), clip.source->firstFrame, {});
}

/// What has to be done now and then, and is no other thread's affair.
void PluginProcessor::timerCallback()
{
    const LinkStatus status = link.status();
    clips.tidy();
    drainNotes();
    heard.setAhead(status.readyTo, status.fedTo);
    rememberEngine(status);
}

void PluginProcessor::drainNotes()
{
    while (numbers.notes.tryPop([this](const FrameNote& note) { heard.add(note); }))
    {
    }
}

/// LoRAs of a preset are known by name until an engine says what they are; and the project names the checkpoint that
/// made its sound.
void PluginProcessor::rememberEngine(const LinkStatus& status)
{
    if (status.state != LinkState::ready)
        return;
    edits.resolveLoras(status.engine.loraNames, status.engine.loras);
    Settings wanted = settings();
    if (!wanted.checkpointHash.empty() || status.windows == 0)
        return;
    wanted.checkpoint = status.engine.checkpoint;
    wanted.checkpointHash = status.engine.checkpointHash;
    applySettings(wanted);
}

void PluginProcessor::reset() { resetRequested.store(true, std::memory_order_release); }

double PluginProcessor::getTailLengthSeconds() const
{
    return getSampleRate() > 0.0 ? getLatencySamples() / getSampleRate() : 0.0;
}

Settings PluginProcessor::settings() const
{
    const std::lock_guard lock(mutex);
    return current;
}

void PluginProcessor::changeSettings(const Settings& wanted)
{
    const Settings before = settings();
    if (!applySettings(wanted))
        return;
    edits.history.recordSettings(before, settings());
    updateHostDisplay(ChangeDetails().withNonParameterStateChanged(true));
}

/// Another mode or latency starts a new player. True when something has changed.
bool PluginProcessor::applySettings(const Settings& wanted)
{
    std::optional<int> newLatency;
    bool hasChanged = false;
    {
        const std::lock_guard lock(mutex);
        const Settings old = std::exchange(current, wanted.sanitised());
        const Settings used = environment::overridden(current);
        hasChanged = !(current == old);
        latePolicy = used.latePolicy;
        cycles = used.cycles;
        limits = used.limits;
        limitsBounces = used.limitsBounces;
        matchGain = used.matchesLoudness ? static_cast<float>(used.matchGain) : 0.0f;
        timeoutNanoseconds = static_cast<std::int64_t>(used.timeoutSeconds * 1e9);
        link.setConfig(used.config);
        link.setEndpoint(used.endpoint);
        starter.setEndpoint(used.endpoint);
        const bool isOther =
            used.mode != old.mode || (used.mode == PlayMode::stream && used.latencyFrames() != old.latencyFrames());
        if (isOther && !players.isEmpty())
            newLatency = startPlayer(true);
    }
    if (newLatency)
        setLatencySamples(*newLatency); // the host may call back from here
    return hasChanged;
}

/// Also the wish to go on with the checkpoint that the engine has now.
void PluginProcessor::acknowledgeErrors()
{
    numbers.timedOut = false;
    numbers.noClip = false;
    link.acknowledgeError();
    freezer.acknowledge();
    clips.acknowledge();
    referenceAudio.acknowledge();
    recorder.acknowledge();
    Settings wanted = settings();
    if (const LinkStatus status = link.status(); status.state == LinkState::ready && !wanted.checkpointHash.empty())
    {
        wanted.checkpoint = status.engine.checkpoint;
        wanted.checkpointHash = status.engine.checkpointHash;
        changeSettings(wanted);
    }
}

bool PluginProcessor::hasErrors() const
{
    return numbers.timedOut || numbers.noClip || !link.status().errorCode.empty() || problem().has_value();
}

std::optional<Problem> PluginProcessor::problem() const
{
    const LinkStatus status = link.status();
    const Settings now = settings();
    if (status.state == LinkState::ready && !now.checkpointHash.empty() &&
        now.checkpointHash != status.engine.checkpointHash)
        return Problem{"E_CHECKPOINT", "this project was made with " + now.checkpoint + ", the engine has " +
                                           status.engine.checkpoint + " of other content: it will sound different"};
    if (const auto ofFrozen = freezer.problem())
        return ofFrozen;
    if (const auto ofClip = clips.problem())
        return ofClip;
    for (const ReferenceKind kind : {ReferenceKind::timbre, ReferenceKind::structure})
        if (const auto ofReference = referenceAudio.problem(kind))
            return ofReference;
    return recorder.problem();
}

void PluginProcessor::getStateInformation(juce::MemoryBlock& block)
{
    const auto xml = state::toXml(settings(), parameters);
    xml->addChildElement(edits.toXml().release());
    if (auto clipXml = clips.toXml())
        xml->addChildElement(clipXml.release());
    if (auto frozenXml = freezer.toXml())
        xml->addChildElement(frozenXml.release());
    referenceAudio.addXml(*xml, settings());
    copyXmlToBinary(*xml, block);
}

void PluginProcessor::setStateInformation(const void* data, int size)
{
    const auto xml = state::fromBytes(data, size);
    Settings restored = settings();
    if (xml == nullptr || !state::fromXml(*xml, restored, parameters))
        return;
    referenceAudio.fromXml(*xml);
    applySettings(restored);
    clips.fromXml(xml->getChildByName("CLIP"));
    freezer.fromXml(xml->getChildByName("FROZEN"));
    edits.history.requestClear();
    if (const juce::XmlElement* part = xml->getChildByName("EDITING"))
        edits.fromXml(*part);
}

juce::AudioProcessorEditor* PluginProcessor::createEditor() { return new PluginEditor(*this); }
} // namespace demon

juce::AudioProcessor* JUCE_CALLTYPE createPluginFilter() { return new demon::PluginProcessor(); }
