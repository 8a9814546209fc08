// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "WireLanes.h"

namespace demon
{
/// 64 bits that stand for the input of one frame: its stereo audio and its lanes. They tell whether the input is still
/// what it was; nobody is meant to be kept out by them.
///
/// Every 32-bit word w changes the state by s <- rotate((s ^ w) * odd constant), which is one-to-one in s and in w: two
/// inputs that differ in one word never collide, others by chance of 2^-64. Each channel has a state of its own, so the
/// result does not depend on how the audio is cut into blocks. Minus zero counts as zero.
///
/// Any thread, also the audio thread: real-time safe.
class FrameHasher
{
public:
    void restart() noexcept { states = kStart; }

    void append(const float* left, const float* right, std::size_t count) noexcept
    {
        for (std::size_t i = 0; i < count; ++i)
        {
            take(states[0], left[i]);
            take(states[1], right[i]);
        }
    }

    /// The hash of the audio so far and of these lane values. Never 0, which stands for "not known".
    std::uint64_t finish(const float* lanes, std::size_t count) const noexcept
    {
        std::uint64_t state = mixed(states[0]) ^ rotated(mixed(states[1]), 32);
        for (std::size_t i = 0; i < count; ++i)
            take(state, lanes[i]);
        state = mixed(state);
        return state == 0 ? 1 : state;
    }

private:
    static constexpr std::array<std::uint64_t, 2> kStart{0x243F6A8885A308D3u, 0x13198A2E03707344u}; // digits of pi

    static constexpr std::uint64_t rotated(std::uint64_t value, int by) noexcept
    {
        return (value << by) | (value >> (64 - by));
    }

    static void take(std::uint64_t& state, float value) noexcept
    {
        const float settled = value + 0.0f; // -0 + 0 is +0
        std::uint32_t word = 0;
        std::memcpy(&word, &settled, sizeof word);
        state = rotated((state ^ word) * 0x9E3779B97F4A7C15u, 29);
    }

    /// Every bit of the result depends on every bit of `value` (the finaliser of splitmix64).
    static constexpr std::uint64_t mixed(std::uint64_t value) noexcept
    {
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
        return value ^ (value >> 31);
    }

    std::array<std::uint64_t, 2> states = kStart;
};

/// Picks out of all wire lanes those that shaped a render, so that a lane added later does not make every older render
/// look changed.
class LaneSelection
{
public:
    LaneSelection() = default;

    /// Nothing when a lane of `ids` does not exist (any more). Not for the audio thread.
    static std::optional<LaneSelection> of(const std::vector<std::string>& ids)
    {
        const std::vector<std::string> all = wireLaneIds();
        LaneSelection selection;
        for (const std::string& id : ids)
        {
            std::size_t column = 0;
            while (column < all.size() && all[column] != id)
                ++column;
            if (column == all.size() || selection.count == kWireLaneCount)
                return std::nullopt;
            selection.columns[selection.count++] = column;
        }
        return selection;
    }

    std::size_t size() const noexcept { return count; }

    /// The first size() values are those chosen, in the order of the ids. Real-time safe.
    WireLaneValues pick(const WireLaneValues& all) const noexcept
    {
        WireLaneValues chosen{};
        for (std::size_t i = 0; i < count; ++i)
            chosen[i] = all[columns[i]];
        return chosen;
    }

private:
    std::array<std::size_t, kWireLaneCount> columns{};
    std::size_t count = 0;
};
} // namespace demon
