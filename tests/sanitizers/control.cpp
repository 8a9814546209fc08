// SPDX-License-Identifier: AGPL-3.0-or-later
// Does what the sanitizer named by the first argument forbids: that it is caught shows that the sanitizer watches.
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>

#include "core/Realtime.h"

namespace
{
volatile int counter = 0, largest = std::numeric_limits<int>::max();
volatile std::size_t beyond = 16; // not known to the compiler
void* volatile kept = nullptr;

void count()
{
    for (int i = 0; i < 100000; ++i)
        counter = counter + 1;
}
void race()
{
    std::thread other(count);
    count();
    other.join();
}
void allocate() noexcept DEMON_NONBLOCKING { kept = std::malloc(beyond); }
} // namespace

int main(int, char** arguments)
{
    if (std::strcmp(arguments[1], "address") == 0)
        return std::make_unique<char[]>(16)[beyond];
    if (std::strcmp(arguments[1], "undefined") == 0)
        largest = largest + 1;
    if (std::strcmp(arguments[1], "thread") == 0)
        race();
    if (std::strcmp(arguments[1], "realtime") == 0)
        allocate();
    return 0;
}
