// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "LaunchMachine.h"
#include "Problem.h"
#include "UserSettings.h"

namespace demon
{
/// Where the `demon` command is: the user's own path, else $DEMON_COMMAND, else PATH, else ~/.local/bin. A path that
/// was given and leads nowhere is an error, not a reason to take another. Errors: E_ENGINE_COMMAND.
Result<std::filesystem::path> findEngineCommand(const std::string& chosen);

/// One plugin instance's wish that an engine answers at an endpoint. If none does, the endpoint is on this machine and
/// the user has agreed, `demon serve` is started: once per process and endpoint, however many instances wish for it,
/// and once per machine, by a lock. It is restarted when it dies, until it has died three times in quick succession.
/// When the last wish goes, what was started is ended a few seconds later (at once when the library is unloaded, which
/// waits for it: at most five seconds); what others have started is left alone. If the host dies, the engine sees the
/// end of its standard input and ends too.
///
/// Threads: every method may be called from any thread but the audio thread, and returns within microseconds: a thread
/// per endpoint does the work. Construction finds the command (some file system look-ups).
class EngineLauncher
{
public:
    EngineLauncher(const std::string& endpoint, const UserSettings& settings);
    ~EngineLauncher();
    EngineLauncher(const EngineLauncher&) = delete;
    EngineLauncher& operator=(const EngineLauncher&) = delete;

    /// The user has changed the settings, given consent for instance. The last ones said by any instance count.
    void setSettings(const UserSettings& settings);

    /// After giving up: begin again.
    void retry();

    EngineReport report() const;

private:
    class Worker;
    class Workers;
    std::shared_ptr<Worker> worker;
};
} // namespace demon
