// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>

/// The times of SPEC.md, section 5, in nanoseconds.
namespace demon
{
inline constexpr std::int64_t kMillisecond = 1'000'000;
inline constexpr std::int64_t kSilence = 3000 * kMillisecond;               // without any message: the engine is lost
inline constexpr std::int64_t kPingInterval = 250 * kMillisecond;           // heartbeat and acknowledgement
inline constexpr std::int64_t kPlayheadInterval = 50 * kMillisecond;        // of a loop's playhead
inline constexpr std::int64_t kFirstBackOff = 250 * kMillisecond;           // doubled ...
inline constexpr std::int64_t kLastBackOff = 1000 * kMillisecond;           // ... up to here
inline constexpr std::int64_t kFirstRedirectPatience = 1000 * kMillisecond; // it may have died meanwhile; doubled
inline constexpr std::int64_t kRefusalWait = 2000 * kMillisecond;           // before a refused hello is said again
inline constexpr std::int64_t kResendAfter = 2000 * kMillisecond;           // without movement of pong.expected
inline constexpr std::int64_t kSettling =
    1000 * kMillisecond; // E_EPOCH this soon after welcome answers an older message
} // namespace demon
