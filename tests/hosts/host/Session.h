// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <functional>

#include "checks.h"

namespace host
{
inline const Blocks kVarying{64, 0, 480, 1, 333, 512, 0, 1024};
inline constexpr int kSecond = 48000;

/// A plugin and the small engine of the tests, which it has found before the user presses play.
struct Session
{
    FakeEngine engine{freeEndpoint()};
    HostedPlugin plugin;

    explicit Session(bool offline, double rate = 48000.0, int longestBlock = 4096, Mode mode = Mode::stream)
        : plugin((useEngine(engine.address(), "1", mode), rate), longestBlock, offline)
    {
        REQUIRE(hasBeenFound(engine));
    }

    /// `input` in real time or as fast as the plugin goes; `move` is called between blocks.
    Audio play(
        const Audio& input, const Blocks& blocks, const std::function<void(int)>& move = [](int) {})
    {
        Clock clock(plugin.transport);
        int count = 0;
        return plugin.play(input, blocks,
                           [&]
                           {
                               if (!plugin.instance->isNonRealtime())
                                   clock.wait(blocks[static_cast<std::size_t>(count) % blocks.size()]);
                               move(++count);
                           });
    }
};
} // namespace host
