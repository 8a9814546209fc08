// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <filesystem>
#include <string_view>

/// Where the plugin keeps what belongs to the user and not to a project. Any thread but the audio thread. Nothing is
/// created here. The variables are read at every call; one that is not an absolute path is ignored.
namespace demon::userFolders
{
std::filesystem::path config();  ///< $XDG_CONFIG_HOME/demon-bridge or ~/.config/demon-bridge
std::filesystem::path data();    ///< $XDG_DATA_HOME/demon-bridge or ~/.local/share/demon-bridge
std::filesystem::path runtime(); ///< of locks: $XDG_RUNTIME_DIR/demon-bridge, or data()
std::filesystem::path home();

/// The folder that an environment variable names, or an empty path.
std::filesystem::path fromEnvironment(const char* variable);
} // namespace demon::userFolders
