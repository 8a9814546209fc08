// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <cstdint>

namespace demon
{
enum class LoopState
{
    empty,     ///< nothing to play: the dry signal passes
    armed,     ///< the next block on the timeline begins the capture; an older clip plays until then
    capturing, ///< the input is collected, and passes
    playing    ///< there is a clip
};

/// Why the last capture ended.
enum class CaptureEnd
{
    none,     ///< there was none, or it goes on
    complete, ///< the run over the timeline ended, or the user ended it
    full,     ///< likewise a clip, as long as it may be
    cancelled,
    tooShort, ///< refused
    overflow  ///< refused: the link thread did not keep up
};

/// What the user may know of a loop; each by itself. Written by the audio thread at the end of a block, read by any.
struct LoopSigns
{
    std::atomic<LoopState> state{LoopState::empty};
    std::atomic<CaptureEnd> captureEnd{CaptureEnd::none};
    std::atomic<std::int32_t> epoch{0}; ///< of the newest complete clip, or 0
    std::atomic<std::int64_t> firstFrame{0}, frames{0};
    std::atomic<std::int32_t> revision{0}; ///< of its lanes
    std::atomic<bool> isBouncing{false};
};
} // namespace demon
