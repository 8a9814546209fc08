// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <juce_core/juce_core.h>
#include <optional>
#include <vector>

#include "../Editing.h"
#include "../ReferenceKeeper.h"

/// What the editor's components see of the plugin: narrow interfaces, polled by timers and called on the message thread
/// only. All state lives behind them. A model that is null has nothing to act on: its component is left out.
namespace demon
{
class ModeModel
{
public:
    virtual ~ModeModel() = default;
    virtual PlayMode mode() const = 0;
    virtual void setMode(PlayMode mode) = 0;
};

// --- engine ----------------------------------------------------------------------------------------------------------

enum class EngineState
{
    idle,     ///< the host has not prepared the plugin
    absent,   ///< nothing answers
    starting, ///< the plugin has started an engine that does not answer yet
    warming,  ///< ... and says how far it has come
    ready,
    refused,
    unneeded ///< a frozen result plays
};

struct EngineView
{
    EngineState state = EngineState::idle;
    juce::String model, backend, endpoint;
    std::optional<double> warmUp;             ///< 0 to 1
    std::optional<double> ticks, generations; ///< per second
    std::optional<double> controlToSound;     ///< seconds, measured
    std::optional<double> roundTrip;          ///< seconds
    std::int64_t lateWindows = 0;
    double latency = 6.0;        ///< seconds
    double minimumLatency = 0.0; ///< seconds; 0: not known
    LatePolicy late = LatePolicy::dry;
    double timeout = 20.0; ///< seconds
    bool canStart = false; ///< the plugin may start an engine at this address
    bool startsByItself = false;
    std::int64_t steps = 0; ///< the checkpoint's own; 0: not known
    std::vector<std::string> loraNames, loraHashes;
};

/// What is known of one lane.
struct LaneFacts
{
    bool acts = true;
    juce::String reason;           ///< why it does not
    std::optional<double> latency; ///< seconds from a change to its sound
};

class EngineModel
{
public:
    virtual ~EngineModel() = default;
    virtual EngineView view() const = 0;
    virtual LaneFacts facts(std::size_t lane) const = 0;
    virtual void setLatency(double seconds) = 0;
    virtual void setLatePolicy(LatePolicy policy) = 0;
    virtual void setTimeout(double seconds) = 0;
    virtual void setEndpoint(const juce::String& endpoint) = 0;
    virtual void start() = 0; ///< called when view().canStart
    virtual void setStartsByItself(bool wanted) = 0;
};

// --- timeline and clip -----------------------------------------------------------------------------------------------

enum class WindowState
{
    none,     ///< nothing known
    dry,      ///< the dry signal, as it should be
    waiting,  ///< the engine has not delivered yet
    inFlight, ///< being made
    ready,
    late, ///< it came too late, or not at all
    stale ///< made from lanes that have changed since
};

struct TimelineFrame
{
    WindowState state = WindowState::none;
    float sourceLow = 0.0f, sourceHigh = 0.0f;       ///< peaks, -1 to 1
    float generatedLow = 0.0f, generatedHigh = 0.0f; ///< peaks, -1 to 1
    std::optional<float> lane;                       ///< the shown lane's value
};

class TimelineModel
{
public:
    virtual ~TimelineModel() = default;
    virtual double playhead() const = 0;       ///< frames on the timeline
    virtual std::int64_t revision() const = 0; ///< changes with any frame
    /// The frames [first, first + frames.size()).
    virtual void read(std::int64_t first, std::size_t lane, std::vector<TimelineFrame>& frames) const = 0;
};

enum class ClipState
{
    empty,
    capturing,
    ready
};

struct LoopView
{
    ClipState state = ClipState::empty;
    std::int64_t first = 0, frames = 0; ///< the clip on the timeline
    double limitSeconds = 240.0;
    bool cycles = false; ///< the clip repeats outside of itself; else the dry signal passes
    int feedbackRounds = 1;
    bool bounceIsStale = false; ///< lanes have changed since the last bounce
};

class LoopModel
{
public:
    virtual ~LoopModel() = default;
    virtual LoopView view() const = 0;
    virtual void capture() = 0; ///< from the next frame that plays; ends by stop() or at the limit
    virtual void stop() = 0;
    virtual juce::String load(const juce::File& file) = 0; ///< what went wrong, or nothing
    virtual void clear() = 0;
    virtual void setCycles(bool wanted) = 0;
    virtual void setFeedbackRounds(int rounds) = 0;
};

// --- the rest --------------------------------------------------------------------------------------------------------

struct ReferenceView
{
    juce::String name;              ///< of the file; empty: none
    juce::String problem;           ///< in words
    std::optional<double> progress; ///< while it goes to the engine
};

class ReferenceModel
{
public:
    virtual ~ReferenceModel() = default;
    virtual ReferenceView view(ReferenceKind kind) const = 0;
    virtual juce::String load(ReferenceKind kind, const juce::File& file) = 0; ///< what went wrong, or nothing
    virtual void clear(ReferenceKind kind) = 0;
};

struct LevelView
{
    float left = 0.0f, right = 0.0f; ///< linear peaks since the last call
};

struct OutputView
{
    LevelView input, output;
    float limiterReduction = 0.0f; ///< decibels, 0 or more
    bool matchesLoudness = false, limits = false, limitsBounces = false;
};

class OutputModel
{
public:
    virtual ~OutputModel() = default;
    virtual OutputView take() = 0; ///< takes the peaks
    virtual void setLoudnessMatch(bool wanted) = 0;
    virtual void setLimiter(bool live, bool inBounces) = 0;
};

struct RenderView
{
    juce::File last; ///< the last render, when there is one
    bool isFrozen = false, canFreeze = false, isStale = false;
    juce::String text; ///< about the frozen or the last render
    juce::File folder; ///< where the next take that is frozen goes; the default is the user's
    bool isUsersFolder = true;
};

class RenderModel
{
public:
    virtual ~RenderModel() = default;
    virtual RenderView view() const = 0;
    virtual void setFrozen(bool wanted) = 0;
    virtual void setFolder(const juce::File& folder) = 0; ///< no file: the user's data folder
};

enum class Severity
{
    calm,
    busy,
    warning,
    error
};

struct StatusView
{
    Severity severity = Severity::calm;
    juce::String code; ///< stable, or empty
    juce::String text, detail;
    bool canAcknowledge = false;
};

class StatusModel
{
public:
    virtual ~StatusModel() = default;
    virtual StatusView view() const = 0;
    virtual void acknowledge() = 0;
};

/// What an editor is made from. All of it must outlive the editor.
struct EditorModels
{
    Editing& editing;
    EngineModel& engine;
    StatusModel& status;
    TimelineModel& timeline;
    juce::AudioParameterBool& bypass;
    ModeModel* mode = nullptr;
    LoopModel* loop = nullptr;
    ReferenceModel* references = nullptr;
    OutputModel* output = nullptr;
    RenderModel* render = nullptr;
};
} // namespace demon
