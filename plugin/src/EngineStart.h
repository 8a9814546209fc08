// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "services/EngineLauncher.h"

namespace demon
{
/// The engine of this machine, as far as the plugin may start it: follows the endpoint, and remembers the user's
/// consent for every project. Any thread but the audio thread; never waits for an engine.
class EngineStart
{
public:
    /// Another endpoint: what was started for the last one is not needed any more.
    void setEndpoint(const std::string& endpoint);

    /// False while nothing that plays needs an engine: what was started is not needed either.
    void setNeeded(bool needed);

    void start();                         ///< the user's consent, or a new try after giving up
    void setStartsByItself(bool consent); ///< remembered
    bool startsByItself() const;
    EngineReport report() const;

private:
    void remember(EngineConsent consent);
    void startLauncher();

    mutable std::mutex mutex; ///< guards the rest
    std::string address;
    bool isNeeded = true;
    UserSettings user;
    std::unique_ptr<EngineLauncher> launcher;
};
} // namespace demon
