// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

namespace demon
{
/// Follows a control that may jump, by a straight line of constant duration, and then equals it exactly. Works sample
/// by sample, so the result does not depend on block sizes. Audio thread only; real-time safe.
class Ramp
{
public:
    explicit Ramp(int durationSamples) : duration(durationSamples) {}

    /// Takes the value at once, without a line.
    void jumpTo(float value) noexcept
    {
        current = target = value;
        remaining = 0;
    }

    /// The value for the next sample, given the control's value there.
    float next(float control) noexcept
    {
        if (control != target)
        {
            target = control;
            remaining = duration;
            step = (target - current) / static_cast<float>(duration);
        }
        if (remaining > 0)
            current = --remaining == 0 ? target : current + step;
        return current;
    }

private:
    int duration;
    int remaining = 0;
    float current = 0.0f, target = 0.0f, step = 0.0f;
};
} // namespace demon
