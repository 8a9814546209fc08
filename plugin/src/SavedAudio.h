// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <juce_core/juce_core.h>
#include <vector>

namespace demon::savedAudio
{
/// Samples as text for a saved project, without loss: the bytes of all values by significance (which is what makes
/// audio compress), zlib, base 64. Any thread; allocates.
juce::String pack(const float* values, std::size_t count);

/// The inverse. False, with `values` empty, when the text is damaged, holds NaN or infinity, or does not hold exactly
/// `count` values.
bool unpack(const juce::String& text, std::size_t count, std::vector<float>& values);
} // namespace demon::savedAudio
