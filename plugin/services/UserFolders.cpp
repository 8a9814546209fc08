// SPDX-License-Identifier: AGPL-3.0-or-later
#include "UserFolders.h"

#include <cstdlib>
#include <system_error>
#ifndef _WIN32
#include <pwd.h>
#include <unistd.h>
#endif

namespace demon::userFolders
{
namespace
{
namespace fs = std::filesystem;

constexpr const char* kName = "demon-bridge";

fs::path withDefault(const char* variable, const fs::path& otherwise)
{
    const fs::path named = fromEnvironment(variable);
    return (named.empty() ? otherwise : named) / kName;
}
} // namespace

fs::path fromEnvironment(const char* variable)
{
    const char* value = std::getenv(variable);
    const fs::path path = value != nullptr ? fs::path(value) : fs::path();
    return path.is_absolute() ? path : fs::path();
}

#ifdef _WIN32
fs::path home() { return fromEnvironment("USERPROFILE"); }
fs::path config() { return withDefault("APPDATA", home()); }
fs::path data() { return withDefault("LOCALAPPDATA", home()); }
fs::path runtime() { return data(); }
#else
fs::path home()
{
    if (const fs::path named = fromEnvironment("HOME"); !named.empty())
        return named;
    if (const passwd* user = getpwuid(getuid()); user != nullptr && user->pw_dir != nullptr)
        return user->pw_dir;
    std::error_code ignored;
    return fs::temp_directory_path(ignored) / std::to_string(getuid());
}
fs::path config() { return withDefault("XDG_CONFIG_HOME", home() / ".config"); }
fs::path data() { return withDefault("XDG_DATA_HOME", home() / ".local" / "share"); }
fs::path runtime()
{
    const fs::path named = fromEnvironment("XDG_RUNTIME_DIR");
    return named.empty() ? data() : named / kName;
}
#endif
} // namespace demon::userFolders
