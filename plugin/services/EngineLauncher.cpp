// SPDX-License-Identifier: AGPL-3.0-or-later
#include "EngineLauncher.h"

#include <cctype>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <system_error>
#include <thread>
#include <utility>
#ifndef _WIN32
#include <unistd.h>
#endif

#include "ChildProcess.h"
#include "EngineProbe.h"
#include "FileLock.h"
#include "UserFolders.h"
#include "WholeFile.h"
#include "core/Waiting.h"

namespace demon
{
namespace
{
namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::int64_t kLinger = 5 * LaunchMachine::kSecond;

bool isProgram(const fs::path& path)
{
    std::error_code failure;
#ifdef _WIN32
    return fs::is_regular_file(path, failure);
#else
    return fs::is_regular_file(path, failure) && access(path.c_str(), X_OK) == 0;
#endif
}

/// What to start, and how.
struct Command
{
    fs::path program; ///< empty: there is none
    std::string problem;
    std::vector<std::string> arguments;

    static Command from(const UserSettings& settings)
    {
        Command command;
        command.arguments = settings.engineArguments;
        auto found = findEngineCommand(settings.engineCommand);
        if (const auto* problem = std::get_if<Problem>(&found))
            command.problem = problem->text;
        else
            command.program = std::get<fs::path>(std::move(found));
        return command;
    }
};

fs::path lockOf(const std::string& endpoint)
{
    std::string name;
    for (const char letter : endpoint)
        name += std::isalnum(static_cast<unsigned char>(letter)) != 0 ? letter : '-';
    return userFolders::runtime() / ("engine-" + name + ".lock");
}
} // namespace

Result<fs::path> findEngineCommand(const std::string& chosen)
{
    const char* const variable = std::getenv("DEMON_COMMAND");
    for (const std::string& given : {chosen, std::string(variable != nullptr ? variable : "")})
        if (!given.empty())
        {
            if (fs::path(given).is_absolute() && isProgram(given))
                return fs::path(given);
            return Problem{"E_ENGINE_COMMAND", given + " is not a program: choose the demon command in the settings"};
        }
    const char* const search = std::getenv("PATH");
    std::istringstream folders(search != nullptr ? search : "");
    for (std::string folder; std::getline(folders, folder, ':');)
        if (fs::path(folder).is_absolute() && isProgram(fs::path(folder) / "demon"))
            return fs::path(folder) / "demon";
    if (const fs::path own = userFolders::home() / ".local" / "bin" / "demon"; isProgram(own))
        return own;
    return Problem{"E_ENGINE_COMMAND", "the demon command was not found: install DEMON Bridge's engine, or choose the "
                                       "command in the settings"};
}

/// The thread of one endpoint, and what it owns. Lives until the library is unloaded.
class EngineLauncher::Worker
{
public:
    explicit Worker(std::string address)
        : endpoint(std::move(address)), lockFile(lockOf(endpoint)), machine(isLocalEndpoint(endpoint), kLinger),
          thread([this] { run(); })
    {
    }
    ~Worker()
    {
        {
            const std::lock_guard lock(mutex);
            quit = true;
            machine.stopNow();
        }
        wake.notify_all();
        thread.join();
    }

    void addWish(int change)
    {
        {
            const std::lock_guard lock(mutex);
            wishes += change;
            machine.setWanted(wishes > 0, steadyNanoseconds());
        }
        wake.notify_all();
    }

    void setCommand(EngineConsent consent, Command newest)
    {
        {
            const std::lock_guard lock(mutex);
            machine.setPlan(consent, newest.problem);
            command = std::move(newest);
        }
        wake.notify_all();
    }

    void retry()
    {
        {
            const std::lock_guard lock(mutex);
            machine.retry();
        }
        wake.notify_all();
    }

    EngineReport report() const
    {
        const std::lock_guard lock(mutex);
        return machine.report();
    }

private:
    using Action = LaunchMachine::Action;

    void run()
    {
        std::unique_lock lock(mutex);
        while (!quit || machine.hasChild())
        {
            const Action action = machine.next(steadyNanoseconds());
            if (action != Action::none)
                perform(action, lock);
            else if (child)
                attend(lock);
            else if (machine.isIdle())
                wake.wait(lock, [this] { return quit || !machine.isIdle(); });
            else
                wake.wait_for(lock, 100ms);
        }
    }

    void perform(Action action, std::unique_lock<std::mutex>& lock)
    {
        switch (action)
        {
        case Action::probe:
        {
            lock.unlock();
            const bool answers = answersAt(endpoint);
            lock.lock();
            machine.probed(answers, steadyNanoseconds());
            break;
        }
        case Action::start:
            start(lock);
            break;
        case Action::terminate:
            child->terminate();
            break;
        case Action::kill:
            child->kill();
            break;
        case Action::none:
            break;
        }
    }

    void start(std::unique_lock<std::mutex>& lock)
    {
        const Command used = command;
        lock.unlock();
        std::vector<std::string> arguments{"serve", "--endpoint", endpoint, "--until-stdin-closes"};
        arguments.insert(arguments.end(), used.arguments.begin(), used.arguments.end());
        const auto noFolder = makeFolder(lockFile.parent_path());
        startLock = noFolder ? std::nullopt : FileLock::tryTake(lockFile);
        std::optional<Result<ChildProcess>> result;
        if (startLock && !answersAt(endpoint)) // whoever held the lock before may be ready by now
            result.emplace(ChildProcess::start(used.program, arguments));
        lock.lock();
        const std::int64_t now = steadyNanoseconds();
        if (noFolder)
            return machine.startFailed(noFolder->text, now);
        if (!result)
        {
            startLock.reset();
            return machine.lockedElsewhere(now);
        }
        if (const auto* problem = std::get_if<Problem>(&*result))
        {
            startLock.reset();
            return machine.startFailed(problem->text, now);
        }
        child.emplace(std::get<ChildProcess>(std::move(*result)));
        machine.started(now);
    }

    /// Listens to the child for a moment.
    void attend(std::unique_lock<std::mutex>& lock)
    {
        lock.unlock();
        child->waitForOutput(50ms);
        std::vector<std::string> lines = child->takeLines();
        const auto end = child->poll();
        if (end)
            for (std::string& line : child->takeLines())
                lines.push_back(std::move(line));
        else
            std::this_thread::sleep_for(lines.empty() ? 0ms : 5ms); // one that never stops talking
        lock.lock();
        for (const std::string& line : lines)
            machine.printed(line);
        if (!end)
            return;
        child.reset();
        startLock.reset();
        machine.exited(*end, steadyNanoseconds());
    }

    const std::string endpoint;
    const fs::path lockFile; ///< named when the message thread is here: only it may read the environment

    mutable std::mutex mutex; ///< guards the next five
    std::condition_variable wake;
    LaunchMachine machine;
    Command command;
    int wishes = 0;
    bool quit = false;

    std::optional<ChildProcess> child; ///< the thread's own, as the next
    std::optional<FileLock> startLock; ///< held as long as the child runs
    std::thread thread;                ///< last: it uses everything above
};

/// One worker per endpoint that was ever wished for.
class EngineLauncher::Workers
{
public:
    static Workers& shared()
    {
        static Workers workers; // its destructor, at unloading, ends what was started
        return workers;
    }

    std::shared_ptr<Worker> at(const std::string& endpoint)
    {
        const std::lock_guard lock(mutex);
        std::shared_ptr<Worker>& worker = byEndpoint[endpoint];
        if (worker == nullptr)
            worker = std::make_shared<Worker>(endpoint);
        return worker;
    }

private:
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<Worker>> byEndpoint;
};

EngineLauncher::EngineLauncher(const std::string& endpoint, const UserSettings& settings)
    : worker(Workers::shared().at(endpoint))
{
    setSettings(settings);
    worker->addWish(1);
}

EngineLauncher::~EngineLauncher() { worker->addWish(-1); }

void EngineLauncher::setSettings(const UserSettings& settings)
{
    worker->setCommand(settings.engineConsent, Command::from(settings));
}

void EngineLauncher::retry() { worker->retry(); }

EngineReport EngineLauncher::report() const { return worker->report(); }
} // namespace demon
