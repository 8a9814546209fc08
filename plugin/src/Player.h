// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <memory>
#include <utility>

#include "core/Loop.h"
#include "core/Stream.h"
#include "link/PlayerPort.h"

namespace demon
{
/// What the audio thread is inside of: a Stream or a Loop.
class Player
{
public:
    explicit Player(std::shared_ptr<Stream> player) : stream(std::move(player)) {}
    explicit Player(std::shared_ptr<Loop> player) : looper(std::move(player)) {}

    const std::shared_ptr<Loop>& loop() const noexcept { return looper; } ///< or null
    int latencySamples() const noexcept { return stream != nullptr ? static_cast<int>(stream->latencySamples) : 0; }
    PlayerPort port() const { return stream != nullptr ? PlayerPort(stream) : PlayerPort(looper); }

    /// Audio thread; see Stream and Loop.
    template <class Waiter>
    void process(std::array<float*, 2> audio, int count, const Transport& transport, const Controls& controls,
                 Waiter& waiter)
    {
        if (stream != nullptr)
            stream->process(audio, count, transport, controls, waiter);
        else
            looper->process(audio, count, transport, controls, waiter);
    }
    void requestReset() noexcept { stream != nullptr ? stream->requestReset() : looper->requestReset(); }
    const BlockReport& lastBlock() const noexcept
    {
        return stream != nullptr ? stream->lastBlock() : looper->lastBlock();
    }

private:
    std::shared_ptr<Stream> stream;
    std::shared_ptr<Loop> looper;
};
} // namespace demon
