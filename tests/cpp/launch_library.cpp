// SPDX-License-Identifier: AGPL-3.0-or-later
// What a host loads and unloads: the launcher in a library.
#include <memory>

#include "services/EngineLauncher.h"

namespace
{
std::unique_ptr<demon::EngineLauncher> launcher;
}

extern "C" void startEngine(const char* endpoint, const char* command)
{
    demon::UserSettings settings;
    settings.engineConsent = demon::EngineConsent::yes;
    settings.engineCommand = command;
    launcher = std::make_unique<demon::EngineLauncher>(endpoint, settings);
}

extern "C" void forgetEngine() { launcher.reset(); }
