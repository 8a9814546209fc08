// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../Editing.h"

namespace demon
{
enum class DrawTool
{
    none,
    smooth,
    line,
    step,
    erase
};

/// Draws a lane's curve over the clip, one stroke at a time; a stroke is one step of the undo history. Knows nothing of
/// pixels: a place is a frame of the clip and a proportion of the lane's range. Message thread.
class CurvePen
{
public:
    static constexpr std::int64_t kStepFrames = 10; ///< the step tool's stairs, 0.4 s

    struct Place
    {
        double frame = 0.0; ///< of the clip; outside of it nothing is drawn
        float proportion = 0.0f;
    };

    explicit CurvePen(Editing& edits) : editing(edits) {}

    void begin(DrawTool tool, std::size_t lane, std::int64_t clipFrames, Place place);
    void moveTo(Place place);
    void end();
    bool isDrawing() const { return tool != DrawTool::none; }

private:
    float valueAt(float proportion) const { return editing.lanes[lane].convertFrom0to1(proportion); }
    void straight(double fromFrame, float fromValue, double toFrame, float toValue);
    void line(Place to);
    void stairs(Place to);
    void erase(double to);
    void smoothen();

    Editing& editing;
    DrawTool tool = DrawTool::none; ///< of the stroke under way
    std::size_t lane = 0;
    std::int64_t length = 0;
    Place first, last;
    std::int64_t touchedFirst = 0, touchedEnd = 0; ///< frames that the stroke has touched
    std::vector<float> before;                     ///< the curve before the stroke
};
} // namespace demon
