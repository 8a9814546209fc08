// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineStart.h"

namespace demon
{
void EngineStart::setEndpoint(const std::string& endpoint)
{
    const std::lock_guard lock(mutex);
    if (endpoint == address)
        return;
    address = endpoint;
    startLauncher();
}

void EngineStart::setNeeded(bool needed)
{
    const std::lock_guard lock(mutex);
    if (needed == isNeeded)
        return;
    isNeeded = needed;
    startLauncher();
}

/// The mutex is held.
void EngineStart::startLauncher()
{
    user = UserSettingsFile().load();
    launcher = isNeeded ? std::make_unique<EngineLauncher>(address, user) : nullptr;
}

void EngineStart::start()
{
    remember(EngineConsent::yes);
    const std::lock_guard lock(mutex);
    if (launcher != nullptr)
        launcher->retry();
}

void EngineStart::setStartsByItself(bool consent) { remember(consent ? EngineConsent::yes : EngineConsent::no); }

void EngineStart::remember(EngineConsent consent)
{
    UserSettingsFile().change([consent](UserSettings& settings) { settings.engineConsent = consent; });
    const std::lock_guard lock(mutex);
    user.engineConsent = consent; // also where it could not be written
    if (launcher != nullptr)
        launcher->setSettings(user);
}

bool EngineStart::startsByItself() const
{
    const std::lock_guard lock(mutex);
    return user.engineConsent == EngineConsent::yes;
}

EngineReport EngineStart::report() const
{
    const std::lock_guard lock(mutex);
    return launcher != nullptr ? launcher->report() : EngineReport{};
}
} // namespace demon
