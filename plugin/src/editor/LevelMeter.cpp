// SPDX-License-Identifier: AGPL-3.0-or-later
#include "LevelMeter.h"

#include <cmath>

namespace demon
{
namespace
{
constexpr float kLowest = -60.0f, kHighest = 6.0f, kFall = 24.0f;
constexpr double kHoldSeconds = 1.5;

float proportion(float decibels) { return juce::jlimit(0.0f, 1.0f, (decibels - kLowest) / (kHighest - kLowest)); }
} // namespace

LevelMeter::LevelMeter(const juce::String& name)
{
    setTitle(name);
    setTooltip(name + ", peaks in dBFS");
}

bool LevelMeter::Bar::push(float level, double seconds)
{
    const float before = decibels, heldBefore = held;
    const float now = level > 1e-5f ? 20.0f * std::log10(level) : -100.0f;
    decibels = std::max({now, decibels - kFall * static_cast<float>(seconds), -100.0f});
    heldFor += seconds;
    if (now >= held || heldFor > kHoldSeconds)
    {
        held = std::max(now, decibels);
        heldFor = 0.0;
    }
    return decibels != before || held != heldBefore;
}

void LevelMeter::push(const LevelView& level, double seconds)
{
    const bool left = bars[0].push(level.left, seconds), right = bars[1].push(level.right, seconds);
    if (!left && !right)
        return;
    setDescription(bars[0].held < kLowest && bars[1].held < kLowest
                       ? juce::String("silent")
                       : juce::String(std::max(bars[0].held, bars[1].held), 1) + " dB");
    repaint();
}

void LevelMeter::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    const auto area = getLocalBounds().toFloat();
    const float height = (area.getHeight() - 2.0f) / 2.0f;
    for (int i = 0; i < 2; ++i)
    {
        const auto track = area.withHeight(height).translated(0.0f, static_cast<float>(i) * (height + 2.0f));
        graphics.setColour(p.raised);
        graphics.fillRect(track);
        const auto fill = [&](float from, float to, juce::Colour colour)
        {
            const float start = proportion(from), end = proportion(std::min(to, bars[i].decibels));
            graphics.setColour(colour);
            if (end > start)
                graphics.fillRect(track.getX() + track.getWidth() * start, track.getY(),
                                  track.getWidth() * (end - start), height);
        };
        fill(kLowest, -12.0f, p.ready);
        fill(-12.0f, 0.0f, p.inFlight);
        fill(0.0f, kHighest, p.late);
        if (bars[i].held > kLowest)
        {
            graphics.setColour(bars[i].held > 0.0f ? p.late : p.text);
            graphics.fillRect(track.getX() + track.getWidth() * proportion(bars[i].held) - 1.0f, track.getY(), 1.5f,
                              height);
        }
    }
    graphics.setColour(p.panel);
    for (const float mark : {-48.0f, -36.0f, -24.0f, -12.0f, 0.0f})
        graphics.fillRect(area.getX() + area.getWidth() * proportion(mark), area.getY(), 1.0f, area.getHeight());
}

std::unique_ptr<juce::AccessibilityHandler> LevelMeter::createAccessibilityHandler()
{
    return std::make_unique<juce::AccessibilityHandler>(*this, juce::AccessibilityRole::image);
}
} // namespace demon
