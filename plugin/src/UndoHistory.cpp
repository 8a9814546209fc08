// SPDX-License-Identifier: AGPL-3.0-or-later
#include "UndoHistory.h"

#include <utility>

namespace demon
{
namespace
{
constexpr juce::int64 kMergeMilliseconds = 800; // key presses and wheel clicks on one control are one step

/// What the user changed, in a word.
juce::String nameOfChange(const Settings& before, const Settings& after)
{
    std::vector<juce::String> names;
    const auto check = [&](bool differs, const char* name)
    {
        if (differs)
            names.emplace_back(name);
    };
    check(before.config.prompt != after.config.prompt, "Prompt A");
    check(before.extras.promptB != after.extras.promptB, "Prompt B");
    check(before.config.seed != after.config.seed, "Seed");
    check(before.config.steps != after.config.steps, "Steps");
    check(before.config.solver != after.config.solver, "Solver");
    check(before.extras.loras != after.extras.loras, "LoRA");
    check(!(before.extras.timbre == after.extras.timbre), "Timbre reference");
    check(!(before.extras.structure == after.extras.structure), "Structure reference");
    check(before.latencySeconds != after.latencySeconds, "Latency");
    check(before.endpoint != after.endpoint, "Engine address");
    check(before.latePolicy != after.latePolicy, "If late");
    check(before.timeoutSeconds != after.timeoutSeconds, "Time-out");
    return names.size() == 1 ? names.front() : juce::String("Settings");
}
} // namespace

UndoHistory::UndoHistory(juce::AudioProcessor& owner, SettingsAccess settings)
    : processor(owner), access(std::move(settings))
{
    processor.addListener(this);
}

UndoHistory::~UndoHistory() { processor.removeListener(this); }

bool UndoHistory::isUserEdit() { return !isRestoring && juce::MessageManager::existsAndIsCurrentThread(); }

void UndoHistory::clearIfRequested()
{
    if (!clearRequested.exchange(false))
        return;
    done.clear();
    undone.clear();
    openGestures.clear();
}

juce::String UndoHistory::parameterName(int index) const { return processor.getParameters()[index]->getName(64); }

void UndoHistory::audioProcessorParameterChangeGestureBegin(juce::AudioProcessor*, int index)
{
    if (isUserEdit())
    {
        clearIfRequested();
        openGestures[index] = processor.getParameters()[index]->getValue();
    }
}

void UndoHistory::audioProcessorParameterChangeGestureEnd(juce::AudioProcessor*, int index)
{
    if (!isUserEdit())
        return;
    const auto gesture = openGestures.find(index);
    if (gesture == openGestures.end())
        return;
    const LaneChange change{gesture->second, processor.getParameters()[index]->getValue()};
    openGestures.erase(gesture);
    if (change.before == change.after)
        return;
    Step step;
    step.name = parameterName(index);
    step.parameters[index] = change;
    push(std::move(step));
}

void UndoHistory::recordSettings(const Settings& before, const Settings& after)
{
    if (!isUserEdit() || before == after)
        return;
    Step step;
    step.name = nameOfChange(before, after);
    step.settings = {before, after};
    push(std::move(step));
}

void UndoHistory::recordCurve(const CurveChange& change)
{
    if (!isUserEdit() || change.before == change.after)
        return;
    Step step;
    step.name = "Draw " + juce::String::fromUTF8(kLanes[change.lane].name);
    step.curves.push_back(change);
    push(std::move(step));
}

void UndoHistory::openStep(const juce::String& name)
{
    if (nesting++ == 0)
    {
        clearIfRequested();
        openedStep.emplace();
        openedStep->name = name;
    }
}

void UndoHistory::closeStep()
{
    if (--nesting > 0)
        return;
    Step step = *std::exchange(openedStep, std::nullopt);
    if (!step.isEmpty())
        push(std::move(step));
}

void UndoHistory::push(Step step)
{
    clearIfRequested();
    if (openedStep)
    {
        if (step.settings)
            openedStep->settings = {openedStep->settings ? openedStep->settings->first : step.settings->first,
                                    step.settings->second};
        for (const auto& [index, change] : step.parameters)
            openedStep->parameters.emplace(index, change).first->second.after = change.after;
        openedStep->curves.insert(openedStep->curves.end(), step.curves.begin(), step.curves.end());
        return;
    }
    undone.clear();
    step.madeAt = juce::Time::currentTimeMillis();
    if (merge(step))
        return;
    done.push_back(std::move(step));
    if (done.size() > kMaxSteps)
        done.erase(done.begin());
}

/// A quick second edit of the same single parameter lengthens the last step.
bool UndoHistory::merge(const Step& step)
{
    if (done.empty() || step.settings || !step.curves.empty() || step.parameters.size() != 1)
        return false;
    Step& last = done.back();
    if (last.settings || !last.curves.empty() || last.parameters.size() != 1 ||
        last.parameters.begin()->first != step.parameters.begin()->first ||
        step.madeAt - last.madeAt > kMergeMilliseconds)
        return false;
    last.parameters.begin()->second.after = step.parameters.begin()->second.after;
    last.madeAt = step.madeAt;
    return true;
}

void UndoHistory::apply(const Step& step, bool backwards)
{
    const juce::ScopedValueSetter<bool> restoring(isRestoring, true);
    if (step.settings)
        access.put(backwards ? step.settings->first : step.settings->second);
    for (const auto& [index, change] : step.parameters)
    {
        juce::AudioProcessorParameter& parameter = *processor.getParameters()[index];
        parameter.beginChangeGesture();
        parameter.setValueNotifyingHost(backwards ? change.before : change.after);
        parameter.endChangeGesture();
    }
    for (std::size_t i = 0; i < step.curves.size(); ++i)
    {
        const CurveChange& curve = step.curves[backwards ? step.curves.size() - 1 - i : i];
        if (drawCurve)
            drawCurve(curve.lane, curve.first, backwards ? curve.before : curve.after);
    }
}

bool UndoHistory::undo()
{
    clearIfRequested();
    if (done.empty() || openedStep)
        return false;
    undone.push_back(std::move(done.back()));
    done.pop_back();
    undone.back().madeAt = 0;
    apply(undone.back(), true);
    if (!done.empty())
        done.back().madeAt = 0; // what comes next is a step of its own
    return true;
}

bool UndoHistory::redo()
{
    clearIfRequested();
    if (undone.empty() || openedStep)
        return false;
    done.push_back(std::move(undone.back()));
    undone.pop_back();
    apply(done.back(), false);
    return true;
}

juce::String UndoHistory::undoName() const
{
    return done.empty() || clearRequested ? juce::String() : done.back().name;
}
juce::String UndoHistory::redoName() const
{
    return undone.empty() || clearRequested ? juce::String() : undone.back().name;
}
} // namespace demon
