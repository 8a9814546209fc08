// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <functional>

#include "CurvePen.h"

namespace demon
{
/// Draws a lane's curve over the clip without a mouse: a caret on the frames, a selection, and keys that move both or
/// change the values selected. Each change is one step of the undo history. Message thread.
///
///   left, right         a stair of 0.4 s on; with Alt one frame; with Shift the selection grows
///   Home, End           to the clip's begin and end; with Shift the selection grows
///   up, down            one percent of the lane's range; with Shift a tenth of that
///   page up, page down  ten percent
///   L                   a line from the selection's first to its last value
///   Delete              the host's automation again
///   Escape              only the caret's stair is selected
class CurveCaret
{
public:
    struct Range
    {
        std::int64_t first = 0, end = 0; ///< frames of the clip
    };

    explicit CurveCaret(Editing& edits) : editing(edits) {}

    /// What holds of the frames that are not drawn.
    std::function<float(std::int64_t frame)> valueUnderneath;

    void show(std::size_t lane, std::int64_t clipFrames); ///< before anything else, and when either changes
    void goTo(std::int64_t frame) { moveTo(frame, CurvePen::kStepFrames, false); }
    bool keyPressed(const juce::KeyPress& key); ///< true when the key was one of its own
    void setValue(float value);                 ///< for all that is selected

    Range selection() const;
    std::int64_t frame() const { return caret; }
    float value() const; ///< at the caret

private:
    float valueAt(const std::vector<float>& curve, std::int64_t frame) const;
    void moveTo(std::int64_t frame, std::int64_t grid, bool extends);
    void raise(float proportion);
    void drawLine();

    Editing& editing;
    std::size_t lane = 0;
    std::int64_t length = 0;
    std::int64_t caret = 0, anchor = 0;
    std::int64_t unit = CurvePen::kStepFrames; ///< frames that the caret covers
};
} // namespace demon
