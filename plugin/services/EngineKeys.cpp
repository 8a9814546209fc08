// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineKeys.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "Json.h"
#include "UserFolders.h"
#include "WholeFile.h"
#include "demon/messages.h"

namespace demon
{
namespace
{
constexpr std::uintmax_t kLargestFile = 64 * 1024;
constexpr std::size_t kKeyCharacters = 40;

bool isKey(const std::string& text)
{
    return text.size() == kKeyCharacters &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '!' && c <= '~'; });
}

std::set<std::filesystem::path> filesOf(const std::filesystem::path& folder)
{
    std::set<std::filesystem::path> files; // in the order of their names
    std::error_code failure;
    for (std::filesystem::directory_iterator entry(folder, failure), end; !failure && entry != end;
         entry.increment(failure))
        if (entry->path().extension() == ".json")
            files.insert(entry->path());
    return files;
}

/// As the engine judges its own key files. Not where the system has no such rights.
bool isOpenToOthers(const std::filesystem::path& file)
{
#ifdef _WIN32
    (void)file;
    return false;
#else
    using std::filesystem::perms;
    std::error_code failure;
    const perms found = std::filesystem::status(file, failure).permissions();
    return !failure && (found & (perms::group_all | perms::others_all)) != perms::none;
#endif
}
} // namespace

std::filesystem::path engineKeysFolder() { return userFolders::config() / "engines"; }

Result<std::optional<EngineKeys>> findEngineKeys(const std::string& endpoint, const std::filesystem::path& folder)
{
    for (const std::filesystem::path& file : filesOf(folder))
    {
        const std::optional<std::string> content = readWholeFile(file, kLargestFile);
        const auto object = content ? json::readObject(*content) : std::nullopt;
        if (!object || json::textOf(*object, "endpoint") != endpoint)
            continue;
        EngineKeys keys{json::textOf(*object, "server"), json::textOf(*object, "public"),
                        json::textOf(*object, "secret")};
        if (!isKey(keys.server) || !isKey(keys.publicKey) || !isKey(keys.secretKey))
            continue;
        if (isOpenToOthers(file))
            return Problem{error::keys, "others may read " + file.string() +
                                            ", which holds a secret; run: chmod 600 '" + file.string() + "'"};
        return keys;
    }
    return std::nullopt;
}
} // namespace demon
