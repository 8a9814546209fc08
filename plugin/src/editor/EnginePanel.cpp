// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EnginePanel.h"

#include <cmath>

#include "../LaneText.h"

namespace demon
{
namespace
{
struct LatencyChoice
{
    double seconds;
    const char* words;
};
constexpr LatencyChoice kLatencies[] = {{4.0, "Short"}, {6.0, "Normal"}, {8.0, "Relaxed"}, {12.0, "Safe"}};

juce::String words(EngineState state)
{
    switch (state)
    {
    case EngineState::idle:
        return "Waiting for the host";
    case EngineState::absent:
        return "No engine";
    case EngineState::starting:
        return "Starting";
    case EngineState::warming:
        return "Warming up";
    case EngineState::ready:
        return "Ready";
    case EngineState::refused:
        return "Refused";
    case EngineState::unneeded:
        return "Not needed: frozen";
    }
    return {};
}

juce::Colour colourOf(EngineState state, const Palette& p)
{
    switch (state)
    {
    case EngineState::ready:
        return p.ready;
    case EngineState::starting:
    case EngineState::warming:
        return p.inFlight;
    case EngineState::absent:
    case EngineState::refused:
        return p.late;
    case EngineState::idle:
    case EngineState::unneeded:
        break;
    }
    return p.waiting;
}

const juce::String kUnknown = juce::String::fromUTF8("\xe2\x80\x93");

juce::String perSecond(const std::optional<double>& value)
{
    return value ? juce::String(*value, *value < 10.0 ? 1 : 0) + " /s" : kUnknown;
}

juce::String time(const std::optional<double>& seconds) { return seconds ? timeText::text(*seconds) : kUnknown; }
} // namespace

EnginePanel::EnginePanel(EngineModel& engineModel)
    : Panel("Engine"), model(engineModel),
      latency("Latency", "From what goes in to what the engine made of it. The host compensates for it; it stays the "
                         "same while playing."),
      late("If late", {{"Dry", "The source, in time, in place of a window that is late"},
                       {"Silence", "Silence in place of a window that is late"}}),
      timeout("Time-out", "How long a bounce waits for an engine that makes no progress, such as 20 s"),
      endpoint("Engine address", "Where the engine answers, such as tcp://127.0.0.1:47800")
{
    static constexpr const char* captions[] = {"ticks",      "generations",  "knob to sound",
                                               "round trip", "late windows", "steps"};
    static constexpr const char* tips[] = {
        "Denoising steps of the engine per second", "Whole generations per second",
        "Measured from a turned knob to its sound", "From a message to its answer",
        "Frames that came too late, or not at all", "The checkpoint's own number of steps"};
    for (Text* part : {&state, &engine, &latencyLabel, &lateLabel, &timeoutLabel, &endpointLabel})
        addAndMakeVisible(part);
    for (std::size_t i = 0; i < figures.size(); ++i)
    {
        figures[i].caption.setText(captions[i]);
        figures[i].caption.setTooltip(tips[i]);
        figures[i].value.setTooltip(tips[i]);
        addAndMakeVisible(figures[i].value);
        addAndMakeVisible(figures[i].caption);
    }
    for (juce::Component* child : std::initializer_list<juce::Component*>{&latency, &late, &timeout, &endpoint})
        addAndMakeVisible(child);
    addChildComponent(start);
    addChildComponent(byItself);
    named(start, "Start engine", "Start the engine on this machine (demon serve)");
    named(byItself, "Start the engine by itself", "From now on, start the engine by itself when nothing answers");
    start.onClick = [this] { model.start(); };
    byItself.onClick = [this] { model.setStartsByItself(byItself.getToggleState()); };
    latency.onChange = [this] { chooseLatency(); };
    late.onChoice = [this](int index) { model.setLatePolicy(index == 1 ? LatePolicy::silence : LatePolicy::dry); };
    timeout.onApply = [this](const juce::String& text)
    {
        if (const auto seconds = timeText::seconds(text))
            model.setTimeout(*seconds);
        timeout.setText(timeText::text(model.view().timeout), false);
    };
    endpoint.onApply = [this](const juce::String& text)
    {
        model.setEndpoint(text.trim());
        endpoint.setText(model.view().endpoint, false);
    };
}

void EnginePanel::chooseLatency()
{
    if (const int id = latency.getSelectedId(); id > 0)
        model.setLatency(kLatencies[id - 1].seconds);
}

void EnginePanel::fillLatencies(const EngineView& view)
{
    latency.clear(juce::dontSendNotification);
    int selected = 0;
    for (int i = 0; i < static_cast<int>(std::size(kLatencies)); ++i)
    {
        const LatencyChoice& choice = kLatencies[i];
        latency.addItem(
            juce::String(choice.words) + ", " + juce::String(juce::roundToInt(1000.0 * choice.seconds)) + " ms", i + 1);
        latency.setItemEnabled(i + 1, choice.seconds >= view.minimumLatency);
        if (std::abs(choice.seconds - view.latency) < 1e-9)
            selected = i + 1;
    }
    latency.setSelectedId(selected, juce::dontSendNotification);
    if (selected == 0)
        latency.setText(juce::String(juce::roundToInt(1000.0 * view.latency)) + " ms", juce::dontSendNotification);
}

void EnginePanel::refresh(const EngineView& view, bool isLoop)
{
    if (!hasShown || view.latency != shown.latency || view.minimumLatency != shown.minimumLatency || isLoop != loop)
    {
        fillLatencies(view);
        if (isLoop)
            latency.setText("None in Loop", juce::dontSendNotification);
        latency.setEnabled(!isLoop);
    }
    const bool hasNewLayout = view.canStart != shown.canStart || !hasShown;
    hasShown = true;
    loop = isLoop;
    juce::String title = words(view.state);
    if (view.warmUp && view.state == EngineState::warming)
        title << ", " << juce::roundToInt(100.0 * *view.warmUp) << " %";
    state.setText(title);
    engine.setText(view.model.isEmpty() ? juce::String("No model")
                                        : view.model + (view.backend.isEmpty() ? "" : " on " + view.backend));
    engine.setTooltip(engine.getText());
    figures[0].show(perSecond(view.ticks));
    figures[1].show(perSecond(view.generations));
    figures[2].show(time(view.controlToSound));
    figures[3].show(time(view.roundTrip));
    figures[4].show(juce::String(view.lateWindows));
    figures[4].value.setColour(view.lateWindows > 0 ? +[](const Palette& p) { return p.late; } : nullptr);
    figures[5].show(view.steps > 0 ? juce::String(view.steps) : kUnknown);
    late.setSelected(view.late == LatePolicy::silence ? 1 : 0);
    timeout.show(timeText::text(view.timeout));
    endpoint.show(view.endpoint);
    start.setVisible(view.canStart);
    byItself.setVisible(view.canStart);
    byItself.setToggleState(view.startsByItself, juce::dontSendNotification);
    const bool hasNewState = view.state != shown.state || view.warmUp != shown.warmUp;
    shown = view;
    if (hasNewLayout)
        resized();
    if (hasNewState)
        repaint();
}

void EnginePanel::paint(juce::Graphics& graphics)
{
    Panel::paint(graphics);
    const Palette& p = paletteOf(*this);
    graphics.setColour(colourOf(shown.state, p));
    graphics.fillEllipse(
        juce::Rectangle<float>(9.0f, 9.0f)
            .withCentre({static_cast<float>(metrics::pad) + 5.0f, static_cast<float>(state.getBounds().getCentreY())}));
    if (!shown.warmUp || shown.state != EngineState::warming)
        return;
    const auto bar = engine.getBounds().toFloat().withTrimmedTop(static_cast<float>(engine.getHeight()) - 4.0f);
    graphics.setColour(p.raised);
    graphics.fillRoundedRectangle(bar, 2.0f);
    graphics.setColour(p.inFlight);
    graphics.fillRoundedRectangle(bar.withWidth(bar.getWidth() * static_cast<float>(*shown.warmUp)), 2.0f);
}

void EnginePanel::resized()
{
    auto area = placeHeading();
    state.setBounds(area.removeFromTop(20).withTrimmedLeft(18));
    area.removeFromTop(2);
    auto row = area.removeFromTop(metrics::field);
    engine.setBounds(start.isVisible() ? juce::Rectangle<int>() : row);
    byItself.setBounds(row.removeFromRight(100));
    start.setBounds(row.withTrimmedRight(metrics::gap));
    area.removeFromTop(4);
    for (std::size_t i = 0; i < figures.size(); ++i)
    {
        const int column = static_cast<int>(i % 3);
        if (column == 0)
            row = area.removeFromTop(38);
        auto cell = row.withWidth(row.getWidth() * (column + 1) / 3).withTrimmedLeft(row.getWidth() * column / 3);
        figures[i].value.setBounds(cell.removeFromTop(19));
        figures[i].caption.setBounds(cell.removeFromTop(16));
    }
    area.removeFromTop(4);
    const auto place = [&](Text& label, juce::Component& control)
    {
        auto line = area.removeFromTop(metrics::field);
        area.removeFromTop(5);
        label.setBounds(line.removeFromLeft(60));
        control.setBounds(line);
    };
    place(latencyLabel, latency);
    place(lateLabel, late);
    place(timeoutLabel, timeout);
    place(endpointLabel, endpoint);
}
} // namespace demon
