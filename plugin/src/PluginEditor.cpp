// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PluginEditor.h"

#include "StatusText.h"

namespace demon
{
namespace
{
constexpr int kLatencyChoices[] = {4, 6, 8, 12}; // seconds
constexpr int kLineHeight = 26;
constexpr int kLabelWidth = 80;
} // namespace

PluginEditor::PluginEditor(PluginProcessor& owner)
    : AudioProcessorEditor(&owner), processor(owner), laneList(owner.lanes())
{
    for (juce::Label* line : {&status, &detail})
    {
        line->setMinimumHorizontalScale(0.8f);
        addAndMakeVisible(line);
    }
    status.setTitle("Status");
    detail.setTitle("Details");
    acknowledge.setTitle("Acknowledge the error");
    addChildComponent(acknowledge);
    acknowledge.onClick = [this] { processor.acknowledgeErrors(); };

    addField(promptLabel, "Prompt", prompt);
    addField(seedLabel, "Seed", seed);
    addField(stepsLabel, "Steps", steps);
    addField(solverLabel, "Solver", solver);
    addField(latencyLabel, "Latency", latency);
    addField(lateLabel, "If late", late);
    addField(endpointLabel, "Engine", endpoint);
    seed.setInputRestrictions(10, "0123456789");
    steps.setInputRestrictions(2, "0123456789");
    steps.setTooltip("Denoising steps; 0 is the checkpoint's own number");
    solver.addItemList({"ode", "sde"}, 1);
    late.addItemList({"dry", "silence"}, 1);
    for (const int seconds : kLatencyChoices)
        latency.addItem(juce::String(seconds) + " s", seconds);
    for (juce::TextEditor* field : {&prompt, &seed, &steps, &endpoint})
        field->onReturnKey = field->onFocusLost = [this] { applySettings(); };
    for (juce::ComboBox* field : {&solver, &latency, &late})
        field->onChange = [this] { applySettings(); };

    viewport.setViewedComponent(&laneList, false);
    addAndMakeVisible(viewport);
    shown = processor.settings();
    showSettings();
    timerCallback();
    setResizable(true, false);
    setResizeLimits(520, 360, 1600, 1200);
    setSize(680, 680);
    startTimerHz(10);
}

void PluginEditor::addField(juce::Label& label, const juce::String& name, juce::Component& field)
{
    label.setText(name, juce::dontSendNotification);
    field.setTitle(name);
    field.setDescription(name); // some fields announce their value in place of the title
    addAndMakeVisible(label);
    addAndMakeVisible(field);
}

/// Fills the fields without triggering them.
void PluginEditor::showSettings()
{
    prompt.setText(juce::String::fromUTF8(shown.config.prompt.c_str()), false);
    seed.setText(juce::String(shown.config.seed), false);
    steps.setText(juce::String(shown.config.steps), false);
    endpoint.setText(juce::String(shown.endpoint), false);
    solver.setSelectedId(shown.config.solver == "sde" ? 2 : 1, juce::dontSendNotification);
    late.setSelectedId(shown.latePolicy == LatePolicy::silence ? 2 : 1, juce::dontSendNotification);
    const int seconds = juce::roundToInt(shown.latencySeconds);
    if (seconds == shown.latencySeconds && latency.indexOfItemId(seconds) >= 0)
        latency.setSelectedId(seconds, juce::dontSendNotification);
    else
        latency.setText(juce::String(shown.latencySeconds, 2) + " s", juce::dontSendNotification);
}

void PluginEditor::applySettings()
{
    Settings wanted = shown;
    wanted.config.prompt = prompt.getText().toStdString();
    wanted.config.seed = seed.getText().getLargeIntValue();
    wanted.config.steps = steps.getText().getIntValue();
    wanted.endpoint = endpoint.getText().toStdString();
    wanted.config.solver = solver.getSelectedId() == 2 ? "sde" : "ode";
    wanted.latePolicy = late.getSelectedId() == 2 ? LatePolicy::silence : LatePolicy::dry;
    if (const int seconds = latency.getSelectedId(); seconds != 0)
        wanted.latencySeconds = seconds;
    if (!(wanted == shown))
        processor.changeSettings(wanted);
    shown = processor.settings(); // what became of the fields
    showSettings();
}

/// What does not fit can be read in the tooltip.
void PluginEditor::showLine(juce::Label& label, const juce::String& text)
{
    label.setText(text, juce::dontSendNotification);
    label.setTooltip(text);
}

void PluginEditor::timerCallback()
{
    const LinkStatus link = processor.linkStatus();
    showLine(status, statusLine(processor, link));
    showLine(detail, detailLine(processor, link));
    acknowledge.setVisible(!link.errorCode.empty() || processor.telemetry().timedOut);
    laneList.showEngineLanes(link.engine.lanes);
    if (const Settings now = processor.settings(); !(now == shown))
    {
        shown = now; // a restored project
        showSettings();
    }
}

void PluginEditor::paint(juce::Graphics& graphics)
{
    graphics.fillAll(getLookAndFeel().findColour(juce::ResizableWindow::backgroundColourId));
}

void PluginEditor::resized()
{
    auto area = getLocalBounds().reduced(8);
    auto top = area.removeFromTop(2 * kLineHeight); // an error's text may need two lines
    acknowledge.setBounds(top.removeFromRight(48).removeFromTop(kLineHeight).reduced(1));
    status.setBounds(top);
    detail.setBounds(area.removeFromTop(2 * kLineHeight));

    const auto place = [](juce::Rectangle<int> line, juce::Label& label, juce::Component& field)
    {
        label.setBounds(line.removeFromLeft(kLabelWidth));
        field.setBounds(line.reduced(1));
    };
    place(area.removeFromTop(kLineHeight), promptLabel, prompt);
    auto line = area.removeFromTop(kLineHeight);
    const int third = line.getWidth() / 3;
    place(line.removeFromLeft(third), seedLabel, seed);
    place(line.removeFromLeft(third), stepsLabel, steps);
    place(line, solverLabel, solver);
    line = area.removeFromTop(kLineHeight);
    place(line.removeFromLeft(third), latencyLabel, latency);
    place(line.removeFromLeft(third), lateLabel, late);
    place(area.removeFromTop(kLineHeight), endpointLabel, endpoint);

    area.removeFromTop(6);
    viewport.setBounds(area);
    laneList.setSize(area.getWidth() - viewport.getScrollBarThickness(), laneList.getHeight());
}
} // namespace demon
