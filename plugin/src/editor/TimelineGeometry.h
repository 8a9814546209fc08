// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <juce_graphics/juce_graphics.h>

namespace demon
{
/// Where the timeline's parts are, and which frame and share of a lane's range lies under a point.
struct TimelineGeometry
{
    juce::Rectangle<float> ruler, source, generated, states, curve;
    float width = 1.0f;
    double left = 0.0;   ///< frame at the left edge
    double span = 300.0; ///< frames across

    TimelineGeometry() = default;
    TimelineGeometry(juce::Rectangle<float> bounds, double leftFrame, double frames)
        : width(std::max(1.0f, bounds.getWidth())), left(leftFrame), span(frames)
    {
        ruler = bounds.removeFromTop(18.0f);
        bounds.removeFromBottom(2.0f);
        const float height = bounds.getHeight();
        source = bounds.removeFromTop(height * 0.28f).reduced(0.0f, 2.0f);
        generated = bounds.removeFromTop(height * 0.28f).reduced(0.0f, 2.0f);
        states = bounds.removeFromTop(9.0f).reduced(0.0f, 1.5f);
        bounds.removeFromTop(4.0f);
        curve = bounds;
    }

    float xOf(double frame) const { return static_cast<float>((frame - left) / span * width); }
    double frameAt(float x) const { return left + span * static_cast<double>(x / width); }

    /// Proportions are of the lane's range, skewed as its fader is: 0 at the bottom of the curve's area, 1 at the top.
    float yOf(float proportion) const { return scale().getBottom() - scale().getHeight() * proportion; }
    float proportionAt(float y) const
    {
        return juce::jlimit(0.0f, 1.0f, (scale().getBottom() - y) / std::max(1.0f, scale().getHeight()));
    }

private:
    juce::Rectangle<float> scale() const { return curve.reduced(0.0f, 4.0f); }
};
} // namespace demon
