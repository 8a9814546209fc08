// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>

#include "Models.h"
#include "Panel.h"

namespace demon
{
/// How the engine fares, and how it is reached.
class EnginePanel : public Panel
{
public:
    explicit EnginePanel(EngineModel& model);
    void refresh(const EngineView& view, bool isLoop);
    void paint(juce::Graphics&) override;
    void resized() override;
    static constexpr int kHeight = 302;

private:
    struct Figure
    {
        Text value{{}, Text::Tone::title}, caption{{}, Text::Tone::dim};
        void show(const juce::String& text) { value.setText(text); }
    };
    void chooseLatency();
    void fillLatencies(const EngineView& view);

    EngineModel& model;
    EngineView shown;
    bool hasShown = false, loop = false;
    Text state{{}, Text::Tone::title}, engine{{}, Text::Tone::dim};
    std::array<Figure, 6> figures;
    juce::TextButton start{"Start engine"};
    juce::ToggleButton byItself{"by itself"};
    Text latencyLabel{"Latency", Text::Tone::dim}, lateLabel{"If late", Text::Tone::dim},
        timeoutLabel{"Time-out", Text::Tone::dim}, endpointLabel{"Address", Text::Tone::dim};
    Menu latency;
    Choice late;
    Field timeout, endpoint;
};
} // namespace demon
