// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "Problem.h"

namespace demon
{
/// May the plugin start an engine on this machine?
enum class EngineConsent
{
    ask, ///< the user has not said
    yes,
    no
};

enum class Theme
{
    system,
    dark,
    light
};

/// What belongs to the user and not to a project. Nothing here shapes the sound.
struct UserSettings
{
    EngineConsent engineConsent = EngineConsent::ask;
    std::string engineCommand;                ///< path of the `demon` command; empty: it is looked for
    std::vector<std::string> engineArguments; ///< after `serve`, for example --model and a folder
    Theme theme = Theme::system;
    std::string dataFolder;                    ///< of renders and frozen takes; empty: the system's
    std::int64_t renderBudgetMegabytes = 2048; ///< 64 to 1048576
    bool keepsLiveRenders = true;

    std::filesystem::path renders() const; ///< "renders" in the data folder
    std::filesystem::path frozen() const;  ///< "frozen" in the data folder
};

/// The settings file, settings.json. Several plugins of several processes may change it at once: every change reads the
/// newest file under a lock, and replaces it whole. Fields of a later version are left alone. Blocks on the disk, for a
/// millisecond: message thread.
class UserSettingsFile
{
public:
    static std::filesystem::path defaultPath(); ///< in the user's configuration folder

    explicit UserSettingsFile(std::filesystem::path settingsPath = defaultPath()) : path(std::move(settingsPath)) {}

    /// What is missing or makes no sense is as in a new file.
    UserSettings load() const;

    /// Lets `edit` change the newest settings and writes them. A file that is no JSON is kept as settings.json.broken.
    /// Errors: E_OUTPUT.
    std::optional<Problem> change(const std::function<void(UserSettings&)>& edit) const;

private:
    std::filesystem::path path;
};
} // namespace demon
