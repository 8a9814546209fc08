// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LaunchMachine.h"

#include <algorithm>
#include <utility>

namespace demon
{
namespace
{
bool startsWith(const std::string& text, const std::string& beginning)
{
    return text.compare(0, beginning.size(), beginning) == 0;
}
} // namespace

void LaunchMachine::setWanted(bool isWanted, std::int64_t now)
{
    if (wanted == isWanted)
        return;
    wanted = isWanted;
    unwantedAt = now;
    probeAt = 0;
    if (!childRuns)
        state = wanted ? EngineState::searching : EngineState::off;
}

void LaunchMachine::setPlan(EngineConsent userConsent, std::string commandProblem)
{
    if (consent != userConsent || noCommand != commandProblem)
        probeAt = 0;
    consent = userConsent;
    noCommand = std::move(commandProblem);
}

void LaunchMachine::retry()
{
    quickDeaths = 0;
    startAt = probeAt = 0;
    failure.clear();
}

void LaunchMachine::stopNow() { quits = true; }

bool LaunchMachine::mustStop(std::int64_t now) const
{
    return quits || terminatedAt != 0 || (!wanted && now - unwantedAt >= linger);
}

LaunchMachine::Action LaunchMachine::next(std::int64_t now)
{
    if (childRuns)
    {
        if (!mustStop(now))
            return Action::none;
        state = EngineState::stopping;
        if (terminatedAt == 0)
        {
            terminatedAt = now;
            return Action::terminate;
        }
        const bool isDue = !isKilled && now - terminatedAt >= kKillAfter;
        isKilled = isKilled || isDue;
        return isDue ? Action::kill : Action::none;
    }
    if (!wanted || !local || quits)
        return Action::none;
    if (std::exchange(mayStart, false))
        return Action::start;
    return now >= probeAt ? Action::probe : Action::none;
}

void LaunchMachine::probed(bool answers, std::int64_t now)
{
    probeAt = now + kProbeInterval;
    if (answers)
    {
        quickDeaths = 0;
        failure.clear();
        state = EngineState::answering;
        return;
    }
    state = stateWithoutEngine();
    if (state != EngineState::searching)
        return;
    mayStart = now >= startAt;
    if (!mayStart)
    {
        state = EngineState::waiting;
        probeAt = startAt;
    }
}

/// `searching` when nothing forbids to start one.
EngineState LaunchMachine::stateWithoutEngine() const
{
    if (quickDeaths >= kMaxQuickDeaths)
        return EngineState::gaveUp;
    if (consent == EngineConsent::no)
        return EngineState::declined;
    if (!noCommand.empty())
        return EngineState::noCommand;
    return consent == EngineConsent::ask ? EngineState::needsConsent : EngineState::searching;
}

void LaunchMachine::started(std::int64_t now)
{
    childRuns = true;
    isReady = isKilled = false;
    startedAt = now;
    terminatedAt = 0;
    progress.clear();
    lines.clear();
    state = EngineState::starting;
}

void LaunchMachine::startFailed(const std::string& reason, std::int64_t now)
{
    lines.clear();
    startedAt = now;
    isReady = false;
    died(reason, now);
}

void LaunchMachine::lockedElsewhere(std::int64_t now)
{
    state = EngineState::elsewhere;
    probeAt = now + kElsewhereInterval;
}

void LaunchMachine::printed(const std::string& line)
{
    lines.push_back(line);
    if (lines.size() > kMaxLines)
        lines.pop_front();
    if (isReady)
        return;
    progress = line;
    isReady = startsWith(line, "serving ");
    if (isReady && state == EngineState::starting)
        state = EngineState::serving;
}

void LaunchMachine::exited(const std::string& how, std::int64_t now)
{
    childRuns = false;
    probeAt = now;
    if (std::exchange(terminatedAt, 0) == 0)
        return died(how, now);
    quickDeaths = 0; // it was asked to
    state = wanted ? EngineState::searching : EngineState::off;
}

void LaunchMachine::died(const std::string& how, std::int64_t now)
{
    const bool wasQuick = !isReady || now - startedAt < kQuick;
    quickDeaths = wasQuick ? quickDeaths + 1 : 1;
    failure = "the engine has ended (" + how + ")" + (lines.empty() ? "" : ": " + lines.back());
    log.clear();
    for (const std::string& line : lines)
        log += line + "\n";
    startAt = now + (kFirstBackOff << std::min(quickDeaths - 1, 4));
    probeAt = std::min(startAt, now + kProbeInterval);
    state = quickDeaths >= kMaxQuickDeaths ? EngineState::gaveUp : EngineState::waiting;
}

EngineReport LaunchMachine::report() const
{
    if (wanted && !local)
        return {EngineState::notLocal, "", "", ""};
    switch (state)
    {
    case EngineState::starting:
    case EngineState::serving:
        return {state, "", progress, ""};
    case EngineState::noCommand:
        return {state, "E_ENGINE_COMMAND", noCommand, ""};
    case EngineState::waiting:
    case EngineState::gaveUp:
        return {state, "E_ENGINE_START", failure, log};
    default:
        return {state, "", "", ""};
    }
}
} // namespace demon
