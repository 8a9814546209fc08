// SPDX-License-Identifier: AGPL-3.0-or-later
#include <filesystem>
#include <optional>
#include <string>

#include "TemporaryFolder.h"
#include "catch.h"
#include "services/EngineKeys.h"

using namespace demon;

namespace
{
const std::string kEndpoint = "tcp://studio.local:47800";

std::string credentials(const std::string& endpoint, char digit, const std::string& secret = std::string(40, 'S'))
{
    return R"({"endpoint": ")" + endpoint + R"(", "server": ")" + std::string(40, digit) + R"(", "public": ")" +
           std::string(40, 'P') + R"(", "secret": ")" + secret + R"("})";
}

std::optional<EngineKeys> keysIn(const std::filesystem::path& folder, const std::string& endpoint = kEndpoint)
{
    const auto found = findEngineKeys(endpoint, folder);
    REQUIRE_FALSE(hasFailed(found));
    return std::get<std::optional<EngineKeys>>(found);
}
} // namespace

TEST_CASE("the keys of an engine are in the file with its endpoint")
{
    const TemporaryFolder folder;
    folder.writePrivate("a.json", credentials("tcp://other.local:47800", 'a'));
    folder.writePrivate("b.json", credentials(kEndpoint, 'b'));
    const auto keys = keysIn(folder.path);
    REQUIRE(keys);
    CHECK(keys->server == std::string(40, 'b'));
    CHECK(keys->publicKey == std::string(40, 'P'));
    CHECK(keys->secretKey == std::string(40, 'S'));
    CHECK_FALSE(keysIn(folder.path, "tcp://studio.local:47801"));
}

TEST_CASE("files that are no credentials are passed over")
{
    const TemporaryFolder folder;
    folder.writePrivate("1.json", "");
    folder.writePrivate("2.json", "[1, 2]");
    folder.writePrivate("3.json", R"({"endpoint": ")" + kEndpoint + R"("})");
    folder.writePrivate("4.json", credentials(kEndpoint, 'x', "short"));
    folder.writePrivate("5.json", credentials(kEndpoint, 'x', std::string(40, ' ')));
    folder.writePrivate("6.json", std::string(100'000, ' ') + credentials(kEndpoint, 'x'));
    folder.writePrivate("7.txt", credentials(kEndpoint, 'x'));
    std::filesystem::create_directory(folder / "8.json");
    CHECK_FALSE(keysIn(folder.path));
    folder.writePrivate("9.json", credentials(kEndpoint, 'y'));
    CHECK(keysIn(folder.path)->server == std::string(40, 'y'));
}

TEST_CASE("without a folder there are no keys")
{
    CHECK_FALSE(keysIn("/nowhere/at/all"));
    const ScopedVariable config("XDG_CONFIG_HOME", "/c");
    CHECK(engineKeysFolder() == "/c/demon-bridge/engines");
}

TEST_CASE("a key that others may read is refused")
{
    using std::filesystem::perms;
    const perms isOpen = GENERATE(perms::group_read, perms::others_read, perms::group_write, perms::others_exec);
    const TemporaryFolder folder;
    const std::filesystem::path file = folder.writePrivate("a.json", credentials(kEndpoint, 'a'));
    std::filesystem::permissions(file, isOpen, std::filesystem::perm_options::add);
    const auto found = findEngineKeys(kEndpoint, folder.path);
    REQUIRE(hasFailed(found));
    CHECK(std::get<Problem>(found).code == "E_KEYS");
    CHECK(std::get<Problem>(found).text.find("chmod 600 '" + file.string() + "'") != std::string::npos);
    CHECK_FALSE(keysIn(folder.path, "tcp://other.local:47800")); // it is not about that one
    std::filesystem::permissions(file, isOpen, std::filesystem::perm_options::remove);
    CHECK(keysIn(folder.path));
}
