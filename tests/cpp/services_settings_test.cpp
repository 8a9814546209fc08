// SPDX-License-Identifier: AGPL-3.0-or-later
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "TemporaryFolder.h"
#include "catch.h"
#include "services/FileLock.h"
#include "services/UserFolders.h"
#include "services/UserSettings.h"
#include "services/WholeFile.h"

using namespace demon;

TEST_CASE("folders follow the XDG variables, and the home folder without them")
{
    const ScopedVariable home("HOME", "/home/somebody"), config("XDG_CONFIG_HOME", "/c"), data("XDG_DATA_HOME", ""),
        runtime("XDG_RUNTIME_DIR", "not/absolute");
    CHECK(userFolders::config() == "/c/demon-bridge");
    CHECK(userFolders::data() == "/home/somebody/.local/share/demon-bridge");
    CHECK(userFolders::runtime() == userFolders::data());
    CHECK(UserSettingsFile::defaultPath() == "/c/demon-bridge/settings.json");
    CHECK(UserSettings().renders() == "/home/somebody/.local/share/demon-bridge/renders");
    UserSettings settings;
    settings.dataFolder = "/music/demon";
    CHECK(settings.frozen() == "/music/demon/frozen");
}

TEST_CASE("settings are remembered")
{
    const TemporaryFolder folder;
    const UserSettingsFile file(folder / "config/settings.json");
    CHECK(file.load().engineConsent == EngineConsent::ask);
    REQUIRE(!file.change(
        [](UserSettings& settings)
        {
            settings.engineConsent = EngineConsent::no;
            settings.engineCommand = "/opt/\"demon\"\xC3\xA9";
            settings.engineArguments = {"--model", "/models/a b"};
            settings.theme = Theme::light;
            settings.dataFolder = "/data";
            settings.renderBudgetMegabytes = 100;
            settings.keepsLiveRenders = false;
        }));
    const UserSettings loaded = file.load();
    CHECK(loaded.engineConsent == EngineConsent::no);
    CHECK(loaded.engineCommand == "/opt/\"demon\"\xC3\xA9");
    CHECK(loaded.engineArguments == std::vector<std::string>{"--model", "/models/a b"});
    CHECK(loaded.theme == Theme::light);
    CHECK(loaded.dataFolder == "/data");
    CHECK(loaded.renderBudgetMegabytes == 100);
    CHECK(!loaded.keepsLiveRenders);
}

TEST_CASE("what makes no sense in a settings file is as in a new one, and what is not known stays")
{
    const TemporaryFolder folder;
    const UserSettingsFile file(folder.write(
        "settings.json", R"({"engine_consent": 7, "theme": "pink", "render_budget_mb": 1, "from_the_future": [1]})"));
    CHECK(file.load().engineConsent == EngineConsent::ask);
    CHECK(file.load().theme == Theme::system);
    CHECK(file.load().renderBudgetMegabytes == 64);
    REQUIRE(!file.change([](UserSettings& settings) { settings.theme = Theme::dark; }));
    CHECK(file.load().theme == Theme::dark);
    CHECK(readWholeFile(folder / "settings.json")->find("from_the_future") != std::string::npos);
}

TEST_CASE("a settings file that is no JSON is kept aside")
{
    const TemporaryFolder folder;
    for (const char* bad : {"", "{", "[]", "\xFF\xFE"})
    {
        INFO(bad);
        const UserSettingsFile file(folder.write("settings.json", bad));
        CHECK(file.load().renderBudgetMegabytes == 2048);
        REQUIRE(!file.change([](UserSettings& settings) { settings.theme = Theme::dark; }));
        CHECK(file.load().theme == Theme::dark);
        CHECK(readWholeFile(folder / "settings.json.broken") == bad);
    }
}

TEST_CASE("settings that cannot be written are a problem")
{
    const TemporaryFolder folder;
    folder.write("file", "in the way");
    const auto problem = UserSettingsFile(folder / "file/settings.json").change([](UserSettings&) {});
    REQUIRE(problem);
    CHECK(problem->code == "E_OUTPUT");
}

TEST_CASE("no change is lost when threads and processes change the settings at once")
{
    const TemporaryFolder folder;
    const UserSettingsFile file(folder / "settings.json");
    const auto addMany = [&](const std::string& name)
    {
        for (int i = 0; i < 25; ++i)
            file.change([&](UserSettings& settings) { settings.engineArguments.push_back(name + std::to_string(i)); });
    };
    const pid_t child = fork();
    if (child == 0)
    {
        addMany("child");
        _exit(0);
    }
    std::vector<std::thread> threads;
    for (const char* name : {"a", "b", "c"})
        threads.emplace_back(addMany, name);
    for (std::thread& thread : threads)
        thread.join();
    waitpid(child, nullptr, 0);
    CHECK(file.load().engineArguments.size() == 100);
}

TEST_CASE("a lock has one holder, in one process too, until it is given back")
{
    const TemporaryFolder folder;
    auto held = FileLock::tryTake(folder / "lock");
    REQUIRE(held);
    CHECK(!FileLock::tryTake(folder / "lock"));
    held.reset();
    CHECK(FileLock::tryTake(folder / "lock"));
    CHECK(!FileLock::tryTake(folder / "no folder/lock"));
}
