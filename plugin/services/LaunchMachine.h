// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "UserSettings.h"

namespace demon
{
/// What the editor shows about the engine's process.
enum class LaunchState
{
    off,          ///< nobody needs one
    notLocal,     ///< the endpoint is not on this machine: nothing of ours to start
    searching,    ///< does one answer already?
    answering,    ///< one does, which somebody else has started
    needsConsent, ///< none does, and the user has not said whether one may be started
    declined,     ///< ... has said that none may
    noCommand,    ///< ... there is no `demon` command
    elsewhere,    ///< another program is starting one
    starting,     ///< ours is loading; the text says what
    serving,      ///< ours is ready
    waiting,      ///< ours has ended and is started again soon
    gaveUp,       ///< ours has ended three times in quick succession; the text says how
    stopping
};

struct EngineReport
{
    LaunchState state = LaunchState::off;
    std::string code;               ///< E_ENGINE_START, E_ENGINE_COMMAND or empty
    std::string text;               ///< for the user, one line; may be empty
    std::string log;                ///< the last lines that an engine has printed before it ended, for a closer look
    std::optional<double> progress; ///< 0 to 1, while it starts and says so
};

/// When to look for an engine, to start one and to end it: the policy of EngineLauncher, without process, thread or
/// clock. Times are steady nanoseconds. Not thread-safe.
class LaunchMachine
{
public:
    enum class Action
    {
        none,
        probe,     ///< then say probed
        start,     ///< then say started, startFailed or lockedElsewhere
        terminate, ///< a polite signal
        kill       ///< the other one
    };

    static constexpr std::int64_t kSecond = 1'000'000'000;
    static constexpr std::int64_t kProbeInterval = 2 * kSecond;
    static constexpr std::int64_t kElsewhereInterval = kSecond / 2;
    static constexpr std::int64_t kFirstBackOff = kSecond / 2; ///< doubled with every quick death
    static constexpr std::int64_t kQuick = 20 * kSecond; ///< a life shorter than this, or one that was never ready
    static constexpr int kMaxQuickDeaths = 3;
    static constexpr std::int64_t kKillAfter = 5 * kSecond;

    /// An engine that nobody needs any more is ended after `lingerNanoseconds`: a project that is opened again finds
    /// it.
    LaunchMachine(bool isLocal, std::int64_t lingerNanoseconds) : local(isLocal), linger(lingerNanoseconds) {}

    void setWanted(bool isWanted, std::int64_t now);
    /// `commandProblem` says why there is no command, or is empty.
    void setPlan(EngineConsent userConsent, std::string commandProblem);
    void retry();   ///< the user has done something about it
    void stopNow(); ///< whatever is wanted

    Action next(std::int64_t now);

    void probed(bool answers, std::int64_t now);
    void started(std::int64_t now);
    void startFailed(const std::string& reason, std::int64_t now);
    void lockedElsewhere(std::int64_t now);
    void printed(const std::string& line);
    void exited(const std::string& how, std::int64_t now);

    bool hasChild() const { return childRuns; }
    bool isIdle() const { return !childRuns && (!wanted || !local); }
    EngineReport report() const;

private:
    static constexpr std::size_t kMaxLines = 12;

    bool mustStop(std::int64_t now) const;
    void readStage(const std::string& line);
    void died(const std::string& how, std::int64_t now);
    LaunchState stateWithoutEngine() const;

    const bool local;
    const std::int64_t linger;
    EngineConsent consent = EngineConsent::ask;
    std::string noCommand;

    LaunchState state = LaunchState::off; ///< while there is a child, or as the last probe left it
    bool wanted = false, quits = false;
    std::int64_t unwantedAt = 0;
    bool childRuns = false, isReady = false, mayStart = false;
    std::int64_t startedAt = 0, probeAt = 0, startAt = 0;
    std::int64_t terminatedAt = 0; ///< 0: not yet
    bool isKilled = false;
    int quickDeaths = 0;
    std::string stage, failure, log;
    std::optional<double> progress;
    std::deque<std::string> lines; ///< the last ones
};
} // namespace demon
