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
        state = wanted ? LaunchState::searching : LaunchState::off;
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
        state = LaunchState::stopping;
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
        state = LaunchState::answering;
        return;
    }
    state = stateWithoutEngine();
    if (state != LaunchState::searching)
        return;
    mayStart = now >= startAt;
    if (!mayStart)
    {
        state = LaunchState::waiting;
        probeAt = startAt;
    }
}

/// `searching` when nothing forbids to start one.
LaunchState LaunchMachine::stateWithoutEngine() const
{
    if (quickDeaths >= kMaxQuickDeaths)
        return LaunchState::gaveUp;
    if (consent == EngineConsent::no)
        return LaunchState::declined;
    if (!noCommand.empty())
        return LaunchState::noCommand;
    return consent == EngineConsent::ask ? LaunchState::needsConsent : LaunchState::searching;
}

void LaunchMachine::started(std::int64_t now)
{
    childRuns = true;
    isReady = isKilled = false;
    startedAt = now;
    terminatedAt = 0;
    stage.clear();
    progress.reset();
    lines.clear();
    state = LaunchState::starting;
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
    state = LaunchState::elsewhere;
    probeAt = now + kElsewhereInterval;
}

void LaunchMachine::printed(const std::string& line)
{
    lines.push_back(line);
    if (lines.size() > kMaxLines)
        lines.pop_front();
    if (isReady)
        return;
    readStage(line);
    isReady = startsWith(line, "serving ");
    if (isReady && state == LaunchState::starting)
        state = LaunchState::serving;
}

/// "80 % loading embedded"; other lines are what is going on as they stand.
void LaunchMachine::readStage(const std::string& line)
{
    stage = line;
    const std::size_t mark = line.find(" % ");
    if (mark == 0 || mark > 3 || line.find_first_not_of("0123456789") != mark)
        return;
    stage = line.substr(mark + 3);
    progress = std::min(1.0, std::stoi(line.substr(0, mark)) / 100.0);
}

void LaunchMachine::exited(const std::string& how, std::int64_t now)
{
    childRuns = false;
    probeAt = now;
    if (std::exchange(terminatedAt, 0) == 0)
        return died(how, now);
    quickDeaths = 0; // it was asked to
    state = wanted ? LaunchState::searching : LaunchState::off;
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
    state = quickDeaths >= kMaxQuickDeaths ? LaunchState::gaveUp : LaunchState::waiting;
}

EngineReport LaunchMachine::report() const
{
    if (wanted && !local)
        return {LaunchState::notLocal, "", "", "", {}};
    switch (state)
    {
    case LaunchState::starting:
    case LaunchState::serving:
        return {state, "", stage, "", state == LaunchState::starting ? progress : std::nullopt};
    case LaunchState::noCommand:
        return {state, "E_ENGINE_COMMAND", noCommand, "", {}};
    case LaunchState::waiting:
    case LaunchState::gaveUp:
        return {state, "E_ENGINE_START", failure, log, {}};
    default:
        return {state, "", "", "", {}};
    }
}
} // namespace demon
