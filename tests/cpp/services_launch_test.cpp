// SPDX-License-Identifier: AGPL-3.0-or-later
// Starting the engine: the policy with times made up, the process with real children (small scripts).
#include <arpa/inet.h>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "Eventually.h"
#include "FreeEndpoint.h"
#include "TemporaryFolder.h"
#include "catch.h"
#include "services/ChildProcess.h"
#include "services/EngineLauncher.h"
#include "services/EngineProbe.h"
#include "services/FileLock.h"
#include "services/UserFolders.h"
#include "services/WholeFile.h"

using namespace demon;
using namespace std::chrono_literals;
using Action = LaunchMachine::Action;

namespace
{
constexpr std::int64_t kSecond = LaunchMachine::kSecond;

/// A socket of this machine that somebody may listen at.
class Listener
{
public:
    explicit Listener(int wantedPort = 0)
    {
        handle = socket(AF_INET, SOCK_STREAM, 0);
        const int yes = 1;
        setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<std::uint16_t>(wantedPort));
        REQUIRE(bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(listen(handle, 8) == 0);
        socklen_t size = sizeof address;
        getsockname(handle, reinterpret_cast<sockaddr*>(&address), &size);
        port = ntohs(address.sin_port);
    }
    ~Listener() { close(handle); }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    int port = 0;

private:
    int handle = -1;
};

std::string endpointOf(int port) { return "tcp://127.0.0.1:" + std::to_string(port); }

bool isAlive(int id) { return ::kill(id, 0) == 0; }

/// The user's folders, a script in the place of `demon`, and what it was told.
struct Setting
{
    TemporaryFolder folder;
    ScopedVariable home{"HOME", folder.path.string()};
    ScopedVariable runtime{"XDG_RUNTIME_DIR", (folder / "run").string()};
    ScopedVariable command{"DEMON_COMMAND", ""};
    ScopedVariable path{"PATH", "/usr/bin:/bin"};
    UserSettings settings;

    /// Every start leaves a line "PID ARGUMENTS" in `starts`, then `body` runs.
    explicit Setting(const std::string& body)
    {
        settings.engineConsent = EngineConsent::yes;
        settings.engineCommand =
            folder.write("demon", "#!/bin/sh\necho $$ \"$@\" >> " + (folder / "starts").string() + "\n" + body + "\n");
        std::filesystem::permissions(folder / "demon", std::filesystem::perms::owner_all);
    }

    std::vector<std::string> starts() const
    {
        std::vector<std::string> lines;
        std::ifstream file(folder / "starts");
        for (std::string line; std::getline(file, line);)
            lines.push_back(line);
        return lines;
    }
    int lastId() const { return std::stoi(starts().back()); }
};

/// Serves until it is told to stop or its standard input ends.
const std::string kServes = "echo loading small\necho serving ENDPOINT small HASH eager\nexec cat > /dev/null";

/// The machine has looked and found nobody.
Action afterProbe(LaunchMachine& machine, std::int64_t now)
{
    REQUIRE(machine.next(now) == Action::probe);
    machine.probed(false, now);
    return machine.next(now);
}

LaunchMachine readyMachine(std::int64_t now = kSecond)
{
    LaunchMachine machine(true, 5 * kSecond);
    machine.setPlan(EngineConsent::yes, "");
    machine.setWanted(true, now);
    return machine;
}
} // namespace

TEST_CASE("an engine is started when somebody wants one, none answers and the user agrees")
{
    LaunchMachine machine = readyMachine();
    CHECK(machine.report().state == LaunchState::searching);
    CHECK(afterProbe(machine, kSecond) == Action::start);
    machine.started(kSecond);
    CHECK(machine.report().state == LaunchState::starting);
    CHECK_FALSE(machine.report().progress.has_value());
    machine.printed("a warning of some library");
    CHECK(machine.report().text == "a warning of some library");
    CHECK_FALSE(machine.report().progress.has_value());
    machine.printed("80 % loading small");
    CHECK(machine.report().text == "loading small");
    CHECK(machine.report().progress == 0.8);
    machine.printed("90 % of a library's own bar"); // no stage of ours, and no harm
    machine.printed(" % nothing");
    machine.printed("1000000000000 % far too much");
    CHECK(machine.report().text == "1000000000000 % far too much");
    CHECK(machine.report().progress == 0.9);
    machine.printed("serving tcp://127.0.0.1:1 small hash eager");
    CHECK(machine.report().state == LaunchState::serving);
    CHECK(machine.next(100 * kSecond) == Action::none);
}

TEST_CASE("an engine that answers is left alone, and looked after every two seconds")
{
    LaunchMachine machine = readyMachine();
    REQUIRE(machine.next(kSecond) == Action::probe);
    machine.probed(true, kSecond);
    CHECK(machine.report().state == LaunchState::answering);
    CHECK(machine.next(kSecond + 1) == Action::none);
    CHECK(afterProbe(machine, 3 * kSecond) == Action::start); // it has gone
}

TEST_CASE("nothing is started without consent, without a command, for another machine or for nobody")
{
    LaunchMachine machine = readyMachine();
    machine.setPlan(EngineConsent::ask, "");
    CHECK(afterProbe(machine, kSecond) == Action::none);
    CHECK(machine.report().state == LaunchState::needsConsent);
    machine.setPlan(EngineConsent::no, "");
    CHECK(afterProbe(machine, kSecond) == Action::none);
    CHECK(machine.report().state == LaunchState::declined);
    machine.setPlan(EngineConsent::yes, "there is none");
    CHECK(afterProbe(machine, kSecond) == Action::none);
    CHECK(machine.report().state == LaunchState::noCommand);
    CHECK(machine.report().text == "there is none");
    machine.setPlan(EngineConsent::yes, "");
    CHECK(afterProbe(machine, kSecond) == Action::start);

    LaunchMachine remote(false, 0);
    remote.setPlan(EngineConsent::yes, "");
    remote.setWanted(true, 0);
    CHECK(remote.next(0) == Action::none);
    CHECK(remote.report().state == LaunchState::notLocal);

    LaunchMachine unwanted(true, 0);
    unwanted.setPlan(EngineConsent::yes, "");
    CHECK(unwanted.next(0) == Action::none);
    CHECK(unwanted.report().state == LaunchState::off);
}

TEST_CASE("after three quick deaths, each waited for longer, it gives up with the reason until it is told to retry")
{
    LaunchMachine machine = readyMachine();
    std::int64_t now = kSecond;
    for (const std::int64_t wait : {kSecond / 2, kSecond})
    {
        REQUIRE(afterProbe(machine, now) == Action::start);
        machine.started(now);
        machine.printed("E_BIND: taken");
        machine.exited("exit status 1", now + 1);
        CHECK(machine.report().state == LaunchState::waiting);
        CHECK(machine.next(now + wait) == Action::none);
        now += wait + 1;
    }
    REQUIRE(afterProbe(machine, now) == Action::start);
    machine.started(now);
    machine.printed("Traceback");
    machine.printed("E_BIND: taken");
    machine.exited("exit status 1", now + 19 * kSecond); // never ready
    CHECK(machine.report().state == LaunchState::gaveUp);
    CHECK(machine.report().code == "E_ENGINE_START");
    CHECK(machine.report().text == "the engine has ended (exit status 1): E_BIND: taken");
    CHECK(machine.report().log == "Traceback\nE_BIND: taken\n");
    CHECK(afterProbe(machine, now + 1000 * kSecond) == Action::none);
    CHECK(machine.report().state == LaunchState::gaveUp);
    machine.retry();
    CHECK(afterProbe(machine, now + 1001 * kSecond) == Action::start);
}

TEST_CASE("an engine that has served for a while and dies is started again, however often")
{
    LaunchMachine machine = readyMachine();
    std::int64_t now = kSecond;
    for (int life = 0; life < 10; ++life)
    {
        REQUIRE(afterProbe(machine, now) == Action::start);
        machine.started(now);
        machine.printed("serving");
        machine.printed("serving x");
        now += LaunchMachine::kQuick + 1;
        machine.exited("signal 9", now);
        CHECK(machine.report().state == LaunchState::waiting);
        now += LaunchMachine::kFirstBackOff;
    }
}

TEST_CASE("what nobody wants any more ends after a while, politely and then not")
{
    LaunchMachine machine = readyMachine();
    REQUIRE(afterProbe(machine, kSecond) == Action::start);
    machine.started(kSecond);
    machine.setWanted(false, 10 * kSecond);
    CHECK(machine.next(14 * kSecond) == Action::none);
    machine.setWanted(true, 14 * kSecond); // the project was only closed and opened
    CHECK(machine.next(16 * kSecond) == Action::none);
    machine.setWanted(false, 20 * kSecond);
    CHECK(machine.next(25 * kSecond) == Action::terminate);
    CHECK(machine.report().state == LaunchState::stopping);
    CHECK(machine.next(29 * kSecond) == Action::none);
    CHECK(machine.next(30 * kSecond) == Action::kill);
    CHECK(machine.next(40 * kSecond) == Action::none);
    machine.exited("signal 9", 41 * kSecond);
    CHECK(machine.report().state == LaunchState::off);
    CHECK(machine.next(42 * kSecond) == Action::none);
}

TEST_CASE("an engine that is wanted again while it ends is started anew")
{
    LaunchMachine machine = readyMachine();
    REQUIRE(afterProbe(machine, kSecond) == Action::start);
    machine.started(kSecond);
    machine.setWanted(false, 2 * kSecond);
    REQUIRE(machine.next(8 * kSecond) == Action::terminate);
    machine.setWanted(true, 8 * kSecond);
    machine.exited("exit status 0", 9 * kSecond);
    CHECK(afterProbe(machine, 9 * kSecond) == Action::start);
    CHECK(machine.report().code.empty());
}

TEST_CASE("while another program starts one it is looked for twice a second")
{
    LaunchMachine machine = readyMachine();
    REQUIRE(afterProbe(machine, kSecond) == Action::start);
    machine.lockedElsewhere(kSecond);
    CHECK(machine.report().state == LaunchState::elsewhere);
    CHECK(machine.next(kSecond + kSecond / 4) == Action::none);
    CHECK(machine.next(kSecond + kSecond / 2) == Action::probe);
}

TEST_CASE("only addresses of this machine are local")
{
    for (const char* local : {"tcp://127.0.0.1:47800", "tcp://127.1.2.3:1", "tcp://localhost:65534", "tcp://[::1]:80"})
        CHECK(isLocalEndpoint(local));
    for (const char* other :
         {"tcp://192.168.1.5:47800", "tcp://0.0.0.0:1", "tcp://127.0.0.1:*", "tcp://127.0.0.1:0",
          "tcp://127.0.0.1:65536", "tcp://127.0.0.1:", "tcp://127.evil.example:80", "tcp://", "tcp://127.0.0.1:65535",
          "ipc:///tmp/demon", "", "nonsense", "udp://127.0.0.1:1", "tcp://127.0.0.1:1 2"})
        CHECK(!isLocalEndpoint(other));
}

TEST_CASE("a probe tells whether somebody listens")
{
    std::string gone;
    {
        const Listener listener;
        gone = endpointOf(listener.port);
        CHECK(answersAt(gone));
        CHECK(answersAt("tcp://localhost:" + std::to_string(listener.port)));
    }
    CHECK(!answersAt(gone));
    CHECK(!answersAt("nonsense"));
}

TEST_CASE("a child's lines arrive without colours, whatever the pieces, and then its end")
{
    const TemporaryFolder folder;
    auto started = ChildProcess::start(
        "/bin/sh",
        {"-c", "printf 'a\\033[31mb\\033[0m c\\r\\n\\nno'; sleep 0.1; echo ' end' >&2; printf last; exit 3"});
    REQUIRE(!hasFailed(started));
    auto& child = std::get<ChildProcess>(started);
    std::vector<std::string> lines;
    std::optional<std::string> end;
    REQUIRE(eventually(
        [&]
        {
            child.waitForOutput(10ms);
            end = child.poll();
            for (const std::string& line : child.takeLines())
                lines.push_back(line);
            return end.has_value();
        }));
    CHECK(lines == std::vector<std::string>{"ab c", "no end", "last"});
    CHECK(*end == "exit status 3");
}

TEST_CASE("arguments reach the child as they are, and the host's own variables do not")
{
    const ScopedVariable preload("PYTHONHOME", "/host"), kept("PYTHONPATH", "/kept");
    auto started = ChildProcess::start("/bin/sh", {"-c", "echo \"$1|$PYTHONHOME|$PYTHONPATH\"", "x", "$(id) ; 'a b'"});
    auto& child = std::get<ChildProcess>(started);
    std::vector<std::string> lines;
    REQUIRE(eventually([&] { return !(lines = child.takeLines()).empty(); }));
    CHECK(lines.front() == "$(id) ; 'a b'||/kept");
    CHECK(eventually([&] { return child.poll().has_value(); }));
}

TEST_CASE("a child is in a session of its own, and ends with its standard input")
{
    auto started = ChildProcess::start("/bin/sh", {"-c", "echo $$; exec cat"});
    int id = 0;
    {
        auto& child = std::get<ChildProcess>(started);
        std::vector<std::string> lines;
        REQUIRE(eventually([&] { return !(lines = child.takeLines()).empty(); }));
        id = std::stoi(lines.front());
        CHECK(getsid(id) == id);
        CHECK(!child.poll());
        const ChildProcess moved = std::move(child);
        CHECK(isAlive(id));
    }
    CHECK(!isAlive(id)); // ended and collected
}

TEST_CASE("what a child has started ends with it")
{
    auto started = ChildProcess::start("/bin/sh", {"-c", "sleep 1000 & echo $!; exit 0"});
    auto& child = std::get<ChildProcess>(started);
    std::vector<std::string> lines;
    REQUIRE(eventually([&] { return !(lines = child.takeLines()).empty(); }));
    REQUIRE(eventually([&] { return child.poll().has_value(); }));
    CHECK(eventually(
        [&]
        {
            const auto status = readWholeFile("/proc/" + lines.front() + "/stat"); // its reader is init's business
            return !status || status->find(") Z ") != std::string::npos || !isAlive(std::stoi(lines.front()));
        }));
}

TEST_CASE("a program that cannot be started is a problem with its name")
{
    const TemporaryFolder folder;
    const auto result = ChildProcess::start(folder / "nothing", {});
    REQUIRE(hasFailed(result));
    CHECK(std::get<Problem>(result).code == "E_ENGINE_START");
    CHECK(std::get<Problem>(result).text.find("nothing") != std::string::npos);
}

TEST_CASE("the command is the user's, else the environment's, else PATH's, else the one in ~/.local/bin")
{
    Setting setting("");
    const std::string here = setting.folder.path.string();
    const auto copyTo = [&](const std::string& name)
    {
        std::filesystem::create_directories((setting.folder / name).parent_path());
        std::filesystem::copy_file(setting.folder / "demon", setting.folder / name);
        return (setting.folder / name).string();
    };
    const auto found = [](const std::string& chosen)
    { return std::get<std::filesystem::path>(findEngineCommand(chosen)); };
    const auto code = [](const std::string& chosen) { return std::get<Problem>(findEngineCommand(chosen)).code; };

    CHECK(code("") == "E_ENGINE_COMMAND");
    const std::string own = copyTo(".local/bin/demon");
    CHECK(found("") == own);
    const std::string inPath = copyTo("bin/demon");
    const ScopedVariable path("PATH", "relative:" + here + "/bin:/usr/bin");
    CHECK(found("") == inPath);
    const std::string named = copyTo("named");
    const ScopedVariable variable("DEMON_COMMAND", named);
    CHECK(found("") == named);
    CHECK(found(here + "/demon") == here + "/demon");
    CHECK(code(here + "/missing") == "E_ENGINE_COMMAND"); // no other one is taken instead
    CHECK(code("demon") == "E_ENGINE_COMMAND");
    std::filesystem::permissions(named, std::filesystem::perms::owner_read);
    if (geteuid() != 0 || access(named.c_str(), X_OK) != 0)
        CHECK(code("") == "E_ENGINE_COMMAND");
}

TEST_CASE("many instances start one engine, and the last one ends it")
{
    const Setting setting(kServes);
    const std::string endpoint = freeEndpoint();
    {
        auto first = std::make_unique<EngineLauncher>(endpoint, setting.settings);
        EngineLauncher second(endpoint, setting.settings), third(endpoint, setting.settings);
        REQUIRE(eventually([&] { return third.report().state == LaunchState::serving; }));
        CHECK(setting.starts().size() == 1);
        CHECK(setting.starts().back() ==
              std::to_string(setting.lastId()) + " serve --endpoint " + endpoint + " --until-stdin-closes");
        first.reset();
        std::this_thread::sleep_for(200ms);
        CHECK(isAlive(setting.lastId()));
    }
    const int id = setting.lastId();
    std::this_thread::sleep_for(500ms);
    CHECK(isAlive(id)); // in case the project is only opened again
    {
        EngineLauncher again(endpoint, setting.settings);
        CHECK(again.report().state == LaunchState::serving);
    }
    CHECK(eventually([&] { return !isAlive(id); }));
    CHECK(setting.starts().size() == 1);
}

TEST_CASE("an engine that dies is started again, and one that never works is given up with its words")
{
    const Setting setting("echo 'E_NO_CHECKPOINT: nothing at /models' >&2; exit 1");
    EngineLauncher launcher(freeEndpoint(), setting.settings);
    REQUIRE(eventually([&] { return launcher.report().state == LaunchState::gaveUp; }));
    CHECK(setting.starts().size() == 3);
    CHECK(launcher.report().code == "E_ENGINE_START");
    CHECK(launcher.report().text == "the engine has ended (exit status 1): E_NO_CHECKPOINT: nothing at /models");
    launcher.retry();
    CHECK(eventually([&] { return setting.starts().size() >= 4; }));
}

TEST_CASE("an engine that is killed comes back")
{
    const Setting setting(kServes);
    EngineLauncher launcher(freeEndpoint(), setting.settings);
    REQUIRE(eventually([&] { return launcher.report().state == LaunchState::serving; }));
    ::kill(setting.lastId(), SIGKILL);
    REQUIRE(eventually([&] { return setting.starts().size() == 2; }));
    CHECK(eventually([&] { return launcher.report().state == LaunchState::serving; }));
}

TEST_CASE("an engine that ignores the polite signal is killed")
{
    const Setting setting("trap '' TERM\necho serving x\nwhile :; do sleep 0.1; done");
    const std::string endpoint = freeEndpoint();
    {
        EngineLauncher launcher(endpoint, setting.settings);
        REQUIRE(eventually([&] { return launcher.report().state == LaunchState::serving; }));
        UserSettings other = setting.settings;
        launcher.setSettings(other);
    }
    CHECK(eventually([&] { return !isAlive(setting.lastId()); }, 20000ms));
}

TEST_CASE("nothing is started where somebody answers, before consent, or while another program starts one")
{
    Setting setting(kServes);
    const Listener listener;
    EngineLauncher taken(endpointOf(listener.port), setting.settings);
    CHECK(eventually([&] { return taken.report().state == LaunchState::answering; }));

    const std::string locked = freeEndpoint();
    std::string name = "engine-" + locked + ".lock";
    for (char& letter : name)
        letter = letter == ':' || letter == '/' ? '-' : letter;
    name.replace(name.find("127.0.0.1"), 9, "127-0-0-1");
    REQUIRE(!makeFolder(userFolders::runtime()));
    auto lock = FileLock::tryTake(userFolders::runtime() / name);
    REQUIRE(lock);
    EngineLauncher waiting(locked, setting.settings);
    CHECK(eventually([&] { return waiting.report().state == LaunchState::elsewhere; }));

    UserSettings asking = setting.settings;
    asking.engineConsent = EngineConsent::ask;
    EngineLauncher asked(freeEndpoint(), asking);
    CHECK(eventually([&] { return asked.report().state == LaunchState::needsConsent; }));
    EngineLauncher far("tcp://192.0.2.1:47800", setting.settings);
    CHECK(far.report().state == LaunchState::notLocal);
    CHECK(setting.starts().empty());

    lock.reset(); // the other program has given up
    CHECK(eventually([&] { return waiting.report().state == LaunchState::serving; }));
    asked.setSettings(setting.settings);
    CHECK(eventually([&] { return asked.report().state == LaunchState::serving; }));
    CHECK(setting.starts().size() == 2);
}

// One of the hosts of the next test, in a process of its own.
TEST_CASE("a host that waits to be killed", "[.host]")
{
    UserSettings settings;
    settings.engineConsent = EngineConsent::yes;
    const EngineLauncher launcher(std::getenv("DEMON_TEST_ENDPOINT"), settings);
    std::this_thread::sleep_for(60s);
}

TEST_CASE("two hosts at once start one engine, which ends when its host is killed")
{
    // Two processes, each a host. The engine listens, as a real one does.
    Setting setting("exec /usr/bin/env python3 -c 'import socket, sys\n"
                    "s = socket.socket()\n"
                    "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
                    "s.bind((\"127.0.0.1\", int(sys.argv[3].rsplit(\":\", 1)[1])))\n"
                    "s.listen(8)\n"
                    "print(\"serving x\", flush=True)\n"
                    "sys.stdin.read()' \"$@\"");
    const std::string endpoint = freeEndpoint();
    const ScopedVariable told("DEMON_TEST_ENDPOINT", endpoint);
    const ScopedVariable command("DEMON_COMMAND", setting.settings.engineCommand);
    std::vector<ChildProcess> hosts;
    for (int i = 0; i < 2; ++i)
        hosts.push_back(std::get<ChildProcess>(ChildProcess::start("/proc/self/exe", {"[.host]"})));
    REQUIRE(eventually([&] { return answersAt(endpoint); }));
    std::this_thread::sleep_for(1500ms); // the second host would have tried by now
    CHECK(setting.starts().size() == 1);
    const int engine = setting.lastId();
    hosts.clear(); // killed
    CHECK(eventually([&] { return !answersAt(endpoint); }));
    CHECK(eventually([&] { return !isAlive(engine); }));
}

TEST_CASE("a host's own collecting of children does not confuse it")
{
    struct sigaction ignore
    {
    };
    struct sigaction before
    {
    };
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGCHLD, &ignore, &before);
    {
        const Setting setting("exit 1");
        EngineLauncher launcher(freeEndpoint(), setting.settings);
        CHECK(eventually([&] { return launcher.report().state == LaunchState::gaveUp; }));
        CHECK(setting.starts().size() == 3);
    }
    sigaction(SIGCHLD, &before, nullptr);
}

TEST_CASE("instances may come, go and ask from many threads")
{
    const Setting setting(kServes);
    const std::string endpoint = freeEndpoint();
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back(
            [&]
            {
                for (int round = 0; round < 50; ++round)
                {
                    EngineLauncher launcher(endpoint, setting.settings);
                    (void)launcher.report();
                    launcher.setSettings(setting.settings);
                }
            });
    for (std::thread& thread : threads)
        thread.join();
    {
        EngineLauncher last(endpoint, setting.settings);
        CHECK(eventually([&] { return last.report().state == LaunchState::serving; }));
        CHECK(setting.starts().size() == 1);
    }
    CHECK(eventually([&] { return !isAlive(setting.lastId()); }));
}

TEST_CASE("a host may unload the plugin while an engine runs, which then ends")
{
    const Setting setting(kServes);
    void* const library = dlopen(DEMON_LAUNCH_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(library != nullptr);
    const auto start = reinterpret_cast<void (*)(const char*, const char*)>(dlsym(library, "startEngine"));
    const auto stop = reinterpret_cast<void (*)()>(dlsym(library, "forgetEngine"));
    REQUIRE((start != nullptr && stop != nullptr));
    start(freeEndpoint().c_str(), setting.settings.engineCommand.c_str());
    REQUIRE(eventually([&] { return !setting.starts().empty(); }));
    stop();
    dlclose(library);
    CHECK(eventually([&] { return !isAlive(setting.lastId()); }));
}

// Run by tests/hosts/test_engine_start.py, which names the real command and its model.
TEST_CASE("the real engine is started, tells how far it is, answers, and ends", "[.engine]")
{
    UserSettings settings;
    settings.engineConsent = EngineConsent::yes;
    settings.engineArguments = {"--model", std::getenv("DEMON_TEST_MODEL")};
    const std::string endpoint = freeEndpoint();
    {
        EngineLauncher launcher(endpoint, settings);
        REQUIRE(eventually([&] { return launcher.report().text.find("loading ") == 0; }, 120s));
        const bool serves = eventually([&] { return launcher.report().state == LaunchState::serving; }, 120s);
        INFO(launcher.report().text << launcher.report().log);
        REQUIRE(serves);
        CHECK(launcher.report().text.find("serving " + endpoint) == 0);
        CHECK(answersAt(endpoint));
    }
    CHECK(eventually([&] { return !answersAt(endpoint); }, 30s));
}
