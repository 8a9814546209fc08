// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>

#include "core/Controls.h"
#include "core/Realtime.h"
#include "core/Timeline.h"
#include "core/Waiting.h"

namespace demon
{
/// The tests' one way into the real-time path of a mode (Stream, Loop, FrozenPlayer): whatever host the tests play,
/// RealtimeSanitizer watches it (scripts/sanitize realtime).
template <class Mode>
void processInRealTime(Mode& mode, std::array<float*, 2> audio, int count, const Transport& transport,
                       const Controls& controls) noexcept DEMON_NONBLOCKING
{
    NeverWait waiter;
    mode.process(audio, count, transport, controls, waiter);
}
} // namespace demon
