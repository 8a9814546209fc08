// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <chrono>
#include <thread>

/// Waits for what another thread will bring about. The limit is generous: how soon it comes says as much about the
/// machine as about the code.
template <class Condition>
bool eventually(const Condition& condition, std::chrono::milliseconds limit = std::chrono::seconds(30))
{
    for (const auto until = std::chrono::steady_clock::now() + limit; std::chrono::steady_clock::now() < until;)
    {
        if (condition())
            return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return condition();
}
