// SPDX-License-Identifier: AGPL-3.0-or-later
#include "AllocationCount.h"

#include <cstdlib>
#include <new>

namespace
{
thread_local bool counts = false;
thread_local int calls = 0;

void note() noexcept { calls += counts ? 1 : 0; }
} // namespace

void allocation_count::start() noexcept
{
    calls = 0;
    counts = true;
}

int allocation_count::stop() noexcept
{
    counts = false;
    return calls;
}

void* operator new(std::size_t size)
{
    note();
    if (void* memory = std::malloc(size > 0 ? size : 1))
        return memory;
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept
{
    note();
    return std::malloc(size > 0 ? size : 1);
}
void operator delete(void* memory) noexcept
{
    note();
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { operator delete(memory); }
