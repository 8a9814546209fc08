// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "Problem.h"

namespace demon
{
/// A program started without a shell, in a session of its own: signals meant for the host do not reach it. It reads
/// nothing but the end of its standard input, which comes when this object goes or this process dies, whatever way; its
/// output and errors come here. It has the environment of the host, but for LD_PRELOAD, LD_LIBRARY_PATH and PYTHONHOME,
/// which hosts set for themselves.
///
/// One thread at a time, never the audio thread. Only on POSIX systems: elsewhere start always fails.
class ChildProcess
{
public:
    static Result<ChildProcess> start(const std::filesystem::path& program, const std::vector<std::string>& arguments);

    ChildProcess(ChildProcess&& other) noexcept;
    ChildProcess& operator=(ChildProcess&&) = delete;
    /// Ends it at once if it still runs: say terminate and wait before.
    ~ChildProcess();

    /// Waits until there is output, or not.
    void waitForOutput(std::chrono::milliseconds limit);

    /// The whole lines that have come, without colours and control characters; after the end also the last piece.
    std::vector<std::string> takeLines();

    /// How it has ended ("exit status 1", "signal 9"), or nothing while it runs. What it started itself ends with it.
    std::optional<std::string> poll();

    void terminate(); ///< SIGTERM to it and what it has started
    void kill();      ///< SIGKILL, likewise

private:
    ChildProcess(int childId, int outputDescriptor, int inputDescriptor)
        : id(childId), output(outputDescriptor), input(inputDescriptor)
    {
    }
    void signal(int number);

    int id;     ///< 0: it has ended, and the number may belong to another
    int output; ///< descriptor to read from; -1: closed
    int input;  ///< descriptor whose closing is the end of its standard input
    std::string unfinished;
};
} // namespace demon
