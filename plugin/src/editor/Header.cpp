// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Header.h"

#include <cmath>

namespace demon
{
Header::Header(Editing& edits, ModeModel* modeModel, juce::AudioParameterBool& bypassParameter)
    : editing(edits), mode(modeModel),
      modes("Mode", {{"Stream", "One pass with the host's delay compensation: insert, draw, bounce"},
                     {"Loop", "Play it like an instrument: a captured clip is made again without pause; no latency"}}),
      presets(edits), sides("Compare", {{"A", "Hear A"}, {"B", "Hear B"}}), bypassAttachment(bypassParameter, bypass)
{
    setTitle("Header");
    for (juce::Component* child :
         std::initializer_list<juce::Component*>{&presets, &undo, &redo, &sides, &copy, &theme, &bypass})
        addAndMakeVisible(child);
    if (mode != nullptr)
        addAndMakeVisible(modes);
    modes.onChoice = [this](int index)
    {
        mode->setMode(index == 1 ? PlayMode::loop : PlayMode::stream);
        refresh();
    };
    undo.onClick = [this]
    {
        editing.history.undo();
        refresh();
    };
    redo.onClick = [this]
    {
        editing.history.redo();
        refresh();
    };
    sides.onChoice = [this](int index)
    {
        editing.compare.select(index);
        refresh();
    };
    copy.onClick = [this]
    {
        editing.compare.copyToOther();
        refresh();
    };
    theme.onClick = [this]
    {
        if (onTheme)
            onTheme();
    };
    bypass.setClickingTogglesState(true);
    bypass.setTooltip("Bypass: the source, with the same latency");
    refresh();
}

void Header::refresh()
{
    presets.refresh();
    const auto show = [](IconButton& button, const char* what, const juce::String& name)
    {
        button.setEnabled(name.isNotEmpty());
        button.setTooltip(name.isEmpty() ? juce::String("Nothing to ") + juce::String(what).toLowerCase()
                                         : juce::String(what) + " " + name);
    };
    show(undo, "Undo", editing.history.undoName());
    show(redo, "Redo", editing.history.redoName());
    const int active = editing.compare.active();
    sides.setSelected(active);
    copy.setEnabled(!editing.compare.areEqual());
    copy.setTooltip(active == 0 ? "Copy A to B" : "Copy B to A");
    if (mode != nullptr)
        modes.setSelected(mode->mode() == PlayMode::loop ? 1 : 0);
}

void Header::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    graphics.fillAll(p.panel);
    graphics.setColour(p.text);
    graphics.setFont(uiFont(17.0f, true).withExtraKerningFactor(0.12f));
    graphics.drawText("DEMON", juce::Rectangle<int>(metrics::pad + 22, 0, 90, getHeight()),
                      juce::Justification::centredLeft);
    // Two waves that cross: the source and what becomes of it.
    const juce::Rectangle<float> box(static_cast<float>(metrics::pad), static_cast<float>(getHeight()) / 2 - 7.0f,
                                     16.0f, 14.0f);
    for (const bool generated : {false, true})
    {
        juce::Path wave;
        for (int i = 0; i <= 16; ++i)
        {
            const float x = static_cast<float>(i) / 16.0f;
            const float y = 0.5f + (generated ? 0.45f : -0.45f) * std::sin(x * juce::MathConstants<float>::twoPi);
            const juce::Point<float> point(box.getX() + x * box.getWidth(), box.getY() + y * box.getHeight());
            if (i == 0)
                wave.startNewSubPath(point);
            else
                wave.lineTo(point);
        }
        graphics.setColour(generated ? p.accent : p.source);
        graphics.strokePath(wave,
                            juce::PathStrokeType(2.0f, juce::PathStrokeType::curved, juce::PathStrokeType::rounded));
    }
}

void Header::resized()
{
    auto area = getLocalBounds().reduced(metrics::pad, 9);
    area.removeFromLeft(112);
    if (mode != nullptr)
    {
        modes.setBounds(area.removeFromLeft(148));
        area.removeFromLeft(2 * metrics::gap);
    }
    bypass.setBounds(area.removeFromRight(30));
    area.removeFromRight(4);
    theme.setBounds(area.removeFromRight(30));
    area.removeFromRight(2 * metrics::gap);
    copy.setBounds(area.removeFromRight(30));
    area.removeFromRight(2);
    sides.setBounds(area.removeFromRight(68));
    area.removeFromRight(2 * metrics::gap);
    redo.setBounds(area.removeFromRight(30));
    area.removeFromRight(2);
    undo.setBounds(area.removeFromRight(30));
    area.removeFromRight(2 * metrics::gap);
    presets.setBounds(area.withWidth(juce::jmin(area.getWidth(), 340)));
}
} // namespace demon
