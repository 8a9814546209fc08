// SPDX-License-Identifier: AGPL-3.0-or-later
#include "UserSettings.h"

#include <algorithm>
#include <array>
#include <system_error>

#include "FileLock.h"
#include "Json.h"
#include "UserFolders.h"
#include "WholeFile.h"

namespace demon
{
namespace
{
namespace fs = std::filesystem;

constexpr std::array<const char*, 3> kConsents{"ask", "yes", "no"};
constexpr std::array<const char*, 3> kThemes{"system", "dark", "light"};

template <class Choice>
Choice choiceOf(const json::Value& object, const char* key, const std::array<const char*, 3>& names)
{
    const std::string text = json::textOf(object, key);
    for (std::size_t i = 0; i < names.size(); ++i)
        if (text == names[i])
            return static_cast<Choice>(i);
    return {};
}

UserSettings read(const json::Value& object)
{
    const UserSettings fresh;
    UserSettings settings;
    settings.engineConsent = choiceOf<EngineConsent>(object, "engine_consent", kConsents);
    settings.engineCommand = json::textOf(object, "engine_command");
    settings.engineArguments = json::textsOf(object, "engine_arguments");
    settings.theme = choiceOf<Theme>(object, "theme", kThemes);
    settings.dataFolder = json::textOf(object, "data_folder");
    settings.renderBudgetMegabytes =
        std::clamp<std::int64_t>(json::integerOf(object, "render_budget_mb", fresh.renderBudgetMegabytes), 64, 1048576);
    settings.keepsLiveRenders = json::boolOf(object, "keep_live_renders", fresh.keepsLiveRenders);
    return settings;
}

void write(const UserSettings& settings, json::Value& object)
{
    object["engine_consent"] = kConsents[static_cast<std::size_t>(settings.engineConsent)];
    object["engine_command"] = settings.engineCommand;
    object["engine_arguments"] = settings.engineArguments;
    object["theme"] = kThemes[static_cast<std::size_t>(settings.theme)];
    object["data_folder"] = settings.dataFolder;
    object["render_budget_mb"] = settings.renderBudgetMegabytes;
    object["keep_live_renders"] = settings.keepsLiveRenders;
}

fs::path dataFolderOf(const UserSettings& settings)
{
    const fs::path chosen = settings.dataFolder;
    return chosen.is_absolute() ? chosen : userFolders::data();
}
} // namespace

fs::path UserSettings::renders() const { return dataFolderOf(*this) / "renders"; }
fs::path UserSettings::frozen() const { return dataFolderOf(*this) / "frozen"; }

fs::path UserSettingsFile::defaultPath() { return userFolders::config() / "settings.json"; }

UserSettings UserSettingsFile::load() const
{
    const auto text = readWholeFile(path);
    const auto object = text ? json::readObject(*text) : std::nullopt;
    return object ? read(*object) : UserSettings();
}

std::optional<Problem> UserSettingsFile::change(const std::function<void(UserSettings&)>& edit) const
{
    if (auto problem = makeFolder(path.parent_path()))
        return problem;
    const auto lock = FileLock::take(path.string() + ".lock");
    if (!lock)
        return outputProblem(path, "its lock cannot be opened");
    const auto text = readWholeFile(path);
    auto object = text ? json::readObject(*text) : std::nullopt;
    if (text && !object)
    {
        std::error_code ignored;
        fs::rename(path, path.string() + ".broken", ignored);
    }
    json::Value whole = object ? *std::move(object) : json::Value::object();
    UserSettings settings = read(whole);
    edit(settings);
    write(settings, whole);
    return writeWholeFile(path, json::write(whole));
}
} // namespace demon
