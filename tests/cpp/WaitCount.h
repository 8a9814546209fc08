// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <sys/resource.h>

/// Waiting, counted instead of timed: how long a test takes says as much about the machine as about the code.
namespace demon
{
/// How often this thread has given up its processor to wait (for a sleep, a lock, a file), since construction. What
/// other programs take of the processor does not count. Linux.
class WaitCount
{
public:
    /// An offline wait sleeps a millisecond at a time, so this is the most that one of `milliseconds` can count.
    static constexpr long ofOneWait(long milliseconds) { return milliseconds + 1; }

    /// A pause that nobody asked for (memory, a page of the program not yet loaded) may come in between.
    static constexpr long kUnasked = 9;

    long count() const { return ofThread() - start; }

private:
    static long ofThread()
    {
        rusage usage{};
        getrusage(RUSAGE_THREAD, &usage);
        return usage.ru_nvcsw;
    }

    long start = ofThread();
};
} // namespace demon
