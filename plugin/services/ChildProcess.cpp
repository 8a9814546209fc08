// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ChildProcess.h"

#include <cctype>
#include <utility>

#ifdef _WIN32

namespace demon
{
Result<ChildProcess> ChildProcess::start(const std::filesystem::path&, const std::vector<std::string>&)
{
    return Problem{"E_ENGINE_START", "on this system the plugin cannot start the engine: run demon serve yourself"};
}
ChildProcess::ChildProcess(ChildProcess&& other) noexcept : id(0), output(-1), input(-1) { (void)other; }
ChildProcess::~ChildProcess() = default;
void ChildProcess::waitForOutput(std::chrono::milliseconds) {}
std::vector<std::string> ChildProcess::takeLines() { return {}; }
std::optional<std::string> ChildProcess::poll() { return "never started"; }
void ChildProcess::terminate() {}
void ChildProcess::kill() {}
void ChildProcess::signal(int) {}
} // namespace demon

#else

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace demon
{
namespace
{
constexpr std::size_t kLongestLine = 500;

struct Pipe
{
    int readEnd = -1, writeEnd = -1;

    /// Both ends stay behind when any child of the host's becomes another program.
    bool open()
    {
        int ends[2];
#ifdef __linux__
        if (pipe2(ends, O_CLOEXEC) != 0)
            return false;
#else
        if (pipe(ends) != 0)
            return false;
        for (const int end : ends)
            fcntl(end, F_SETFD, FD_CLOEXEC);
#endif
        readEnd = ends[0];
        writeEnd = ends[1];
        return true;
    }
    static void close(int& end)
    {
        if (end >= 0)
            ::close(end);
        end = -1;
    }
    ~Pipe()
    {
        close(readEnd);
        close(writeEnd);
    }
};

std::vector<char*> childEnvironment()
{
    std::vector<char*> kept;
    for (char** variable = environ; *variable != nullptr; ++variable)
    {
        bool belongsToHost = false;
        for (const char* name : {"LD_PRELOAD=", "LD_LIBRARY_PATH=", "PYTHONHOME="})
            belongsToHost = belongsToHost || std::strncmp(*variable, name, std::strlen(name)) == 0;
        if (!belongsToHost)
            kept.push_back(*variable);
    }
    kept.push_back(nullptr);
    return kept;
}

/// What posix_spawn is to do, freed at the end.
struct SpawnPlan
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;

    SpawnPlan(int input, int output)
    {
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, input, 0);
        posix_spawn_file_actions_adddup2(&files, output, 1);
        posix_spawn_file_actions_adddup2(&files, output, 2);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
        posix_spawn_file_actions_addclosefrom_np(&files, 3); // hosts forget to mark theirs
#endif
        sigset_t all, none;
        sigfillset(&all);
        sigemptyset(&none);
        posix_spawnattr_init(&attributes);
        posix_spawnattr_setsigdefault(&attributes, &all);
        posix_spawnattr_setsigmask(&attributes, &none);
#ifdef POSIX_SPAWN_SETSID
        const int session = POSIX_SPAWN_SETSID;
#else
        const int session = POSIX_SPAWN_SETPGROUP;
#endif
        posix_spawnattr_setflags(&attributes,
                                 static_cast<short>(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | session));
    }
    ~SpawnPlan()
    {
        posix_spawn_file_actions_destroy(&files);
        posix_spawnattr_destroy(&attributes);
    }
    SpawnPlan(const SpawnPlan&) = delete;
    SpawnPlan& operator=(const SpawnPlan&) = delete;
};

Problem cannotStart(const std::filesystem::path& program, int reason)
{
    return {"E_ENGINE_START", program.string() + " cannot be started: " + std::strerror(reason)};
}

/// Without escape sequences and control characters.
std::string plain(const std::string& text)
{
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i)
    {
        if (text[i] == '\x1B' && i + 1 < text.size() && text[i + 1] == '[')
        {
            for (i += 2; i < text.size() && !std::isalpha(static_cast<unsigned char>(text[i]));)
                ++i;
            continue;
        }
        if (!std::iscntrl(static_cast<unsigned char>(text[i])) && result.size() < kLongestLine)
            result += text[i];
    }
    return result;
}
} // namespace

Result<ChildProcess> ChildProcess::start(const std::filesystem::path& program,
                                         const std::vector<std::string>& arguments)
{
    Pipe toChild, fromChild;
    if (!toChild.open() || !fromChild.open())
        return cannotStart(program, errno);
    std::string name = program.string();
    std::vector<std::string> copies = arguments;
    std::vector<char*> argv{name.data()};
    for (std::string& argument : copies)
        argv.push_back(argument.data());
    argv.push_back(nullptr);

    const SpawnPlan plan(toChild.readEnd, fromChild.writeEnd);
    pid_t id = 0;
    if (const int failure =
            posix_spawn(&id, name.c_str(), &plan.files, &plan.attributes, argv.data(), childEnvironment().data()))
        return cannotStart(program, failure);
    fcntl(fromChild.readEnd, F_SETFL, O_NONBLOCK);
    return ChildProcess(id, std::exchange(fromChild.readEnd, -1), std::exchange(toChild.writeEnd, -1));
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : id(std::exchange(other.id, 0)), output(std::exchange(other.output, -1)), input(std::exchange(other.input, -1)),
      unfinished(std::move(other.unfinished))
{
}

ChildProcess::~ChildProcess()
{
    kill();
    if (id != 0)
        waitpid(id, nullptr, 0); // at once: it was killed
    Pipe::close(output);
    Pipe::close(input);
}

void ChildProcess::waitForOutput(std::chrono::milliseconds limit)
{
    pollfd item{output, POLLIN, 0}; // -1: just a pause
    ::poll(&item, 1, static_cast<int>(limit.count()));
}

std::vector<std::string> ChildProcess::takeLines()
{
    char bytes[4096];
    ssize_t count = -1;
    while (output >= 0 && (count = read(output, bytes, sizeof bytes)) > 0)
        unfinished.append(bytes, static_cast<std::size_t>(count));
    const bool isOver = output >= 0 && count == 0;
    if (isOver)
        Pipe::close(output);

    std::vector<std::string> lines;
    const auto add = [&](const std::string& text)
    {
        if (const std::string line = plain(text); !line.empty())
            lines.push_back(line);
    };
    for (std::size_t end = 0; (end = unfinished.find_first_of("\r\n")) != std::string::npos;)
    {
        add(unfinished.substr(0, end));
        unfinished.erase(0, end + 1);
    }
    if (isOver || unfinished.size() > 16 * kLongestLine)
        add(std::exchange(unfinished, {}));
    return lines;
}

std::optional<std::string> ChildProcess::poll()
{
    if (id == 0)
        return "its end was not seen";
    siginfo_t info{};
    if (waitid(P_PID, static_cast<id_t>(id), &info, WEXITED | WNOHANG | WNOWAIT) != 0)
    {
        if (errno == EINTR)
            return std::nullopt;
        id = 0; // the host collects every child itself
        return "its end was not seen";
    }
    if (info.si_pid == 0)
        return std::nullopt;
    ::kill(-id, SIGKILL); // what it has started; the number is ours until waitpid
    waitpid(std::exchange(id, 0), nullptr, 0);
    return (info.si_code == CLD_EXITED ? "exit status " : "signal ") + std::to_string(info.si_status);
}

void ChildProcess::signal(int number)
{
    if (id != 0)
        ::kill(-id, number);
}

void ChildProcess::terminate() { signal(SIGTERM); }
void ChildProcess::kill() { signal(SIGKILL); }
} // namespace demon

#endif
