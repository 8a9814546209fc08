// SPDX-License-Identifier: AGPL-3.0-or-later
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
} // namespace

TEST_CASE("the keys of an engine are in the file with its endpoint")
{
    const TemporaryFolder folder;
    folder.write("a.json", credentials("tcp://other.local:47800", 'a'));
    folder.write("b.json", credentials(kEndpoint, 'b'));
    const auto keys = findEngineKeys(kEndpoint, folder.path);
    REQUIRE(keys);
    CHECK(keys->server == std::string(40, 'b'));
    CHECK(keys->publicKey == std::string(40, 'P'));
    CHECK(keys->secretKey == std::string(40, 'S'));
    CHECK_FALSE(findEngineKeys("tcp://studio.local:47801", folder.path));
}

TEST_CASE("files that are no credentials are passed over")
{
    const TemporaryFolder folder;
    folder.write("1.json", "");
    folder.write("2.json", "[1, 2]");
    folder.write("3.json", R"({"endpoint": ")" + kEndpoint + R"("})");
    folder.write("4.json", credentials(kEndpoint, 'x', "short"));
    folder.write("5.json", credentials(kEndpoint, 'x', std::string(40, ' ')));
    folder.write("6.json", std::string(100'000, ' ') + credentials(kEndpoint, 'x'));
    folder.write("7.txt", credentials(kEndpoint, 'x'));
    std::filesystem::create_directory(folder / "8.json");
    CHECK_FALSE(findEngineKeys(kEndpoint, folder.path));
    folder.write("9.json", credentials(kEndpoint, 'y'));
    CHECK(findEngineKeys(kEndpoint, folder.path)->server == std::string(40, 'y'));
}

TEST_CASE("without a folder there are no keys")
{
    CHECK_FALSE(findEngineKeys(kEndpoint, "/nowhere/at/all"));
    const ScopedVariable config("XDG_CONFIG_HOME", "/c");
    CHECK(engineKeysFolder() == "/c/demon-bridge/engines");
}
