// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include "core/FrozenPlayer.h"
#include "core/Loop.h"
#include "core/Stream.h"
#include "link/PlayerPort.h"

namespace demon
{
/// What the audio thread is inside of: a Stream, a Loop, or what is frozen in place of either.
class Player
{
public:
    explicit Player(std::shared_ptr<Stream> player) : stream(std::move(player)) {}
    explicit Player(std::shared_ptr<Loop> player) : looper(std::move(player)) {}
    explicit Player(std::shared_ptr<FrozenPlayer> player) : frozenPlayer(std::move(player)) {}

    const std::shared_ptr<Loop>& loop() const noexcept { return looper; }                 ///< or null
    const std::shared_ptr<FrozenPlayer>& frozen() const noexcept { return frozenPlayer; } ///< or null
    int latencySamples() const noexcept
    {
        if (stream != nullptr)
            return static_cast<int>(stream->latencySamples);
        return frozenPlayer != nullptr ? static_cast<int>(frozenPlayer->latencySamples) : 0;
    }
    /// Samples before the first sound of one that the host goes on with: what is frozen takes over, see below.
    std::int64_t silenceAtFirst() const noexcept { return stream != nullptr ? stream->latencySamples : 0; }
    /// Empty for what is frozen: nothing is wanted from an engine.
    PlayerPort port() const
    {
        if (stream != nullptr)
            return PlayerPort(stream);
        return looper != nullptr ? PlayerPort(looper) : PlayerPort();
    }

    /// Audio thread; see Stream, Loop and FrozenPlayer.
    template <class Waiter>
    void process(std::array<float*, 2> audio, int count, const Transport& transport, const Controls& controls,
                 Waiter& waiter)
    {
        visit([&](auto& player) { player.process(audio, count, transport, controls, waiter); });
    }
    /// Audio thread: the host goes on where another player has played; see FrozenPlayer.
    void takeOver() noexcept
    {
        if (frozenPlayer != nullptr)
            frozenPlayer->takeOver();
    }
    void requestReset() noexcept
    {
        visit([](auto& player) { player.requestReset(); });
    }
    const BlockReport& lastBlock() const noexcept
    {
        const BlockReport* report = nullptr;
        visit([&](const auto& player) { report = &player.lastBlock(); });
        return *report;
    }

private:
    template <class Visitor> void visit(Visitor&& visitor) const
    {
        if (stream != nullptr)
            visitor(*stream);
        else if (looper != nullptr)
            visitor(*looper);
        else
            visitor(*frozenPlayer);
    }

    std::shared_ptr<Stream> stream;
    std::shared_ptr<Loop> looper;
    std::shared_ptr<FrozenPlayer> frozenPlayer;
};
} // namespace demon
