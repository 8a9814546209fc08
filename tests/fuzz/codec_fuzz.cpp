// SPDX-License-Identifier: Apache-2.0
// The C++ decoder under libFuzzer; scripts/fuzz builds and runs it.
#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <sanitizer/allocator_interface.h>

#include "invariants.h"
// The mutator is not what is tested: a third of the time goes without this.
#pragma clang attribute push(__attribute__((no_sanitize("address", "undefined", "coverage"))), apply_to = function)
#include "mutator.h"
#pragma clang attribute pop

namespace
{
// A decoder may allocate this much, all its allocations added up, whether it has freed them or not. The constant is
// what eight nested headers may announce (4096 pairs of objects each) without an entry following; the factor is a
// msgpack object (24 bytes) for each byte of a header, and what growing vectors copy.
constexpr std::size_t kFixedBytes = 4u << 20;
constexpr std::size_t kBytesPerByte = 64;

std::atomic<bool> isCounting{false};
std::atomic<std::size_t> allocatedBytes{0};

void countAllocation(const volatile void*, std::size_t size)
{
    if (isCounting.load(std::memory_order_relaxed))
        allocatedBytes.fetch_add(size, std::memory_order_relaxed);
}

demon::Decoded decodeWithinBounds(const demon::Parts& parts, const demon::PayloadShape& shape)
{
    const std::vector<std::string_view> views = demon::fuzz::viewsOf(parts);
    std::size_t received = 0;
    for (const std::string_view view : views)
        received += view.size();
    allocatedBytes = 0;
    isCounting = true;
    demon::Decoded decoded = demon::decode(views, shape);
    isCounting = false;
    demon::fuzz::require(allocatedBytes <= kFixedBytes + kBytesPerByte * received, "memory follows from the input");
    return decoded;
}
} // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***)
{
    const int installed = __sanitizer_install_malloc_and_free_hooks(countAllocation, [](const volatile void*) {});
    demon::fuzz::require(installed != 0, "allocations are counted");
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    const auto input = demon::fuzz::readCase({reinterpret_cast<const char*>(data), size});
    // Kept, since up to 255 names cost more than all the rest.
    static std::map<std::pair<int, int>, demon::PayloadShape> shapes;
    const auto [place, isNew] = shapes.try_emplace({input.rateIndex() + (input.hasNames() ? 100 : 0), input.lanes});
    if (isNew)
        place->second = input.shape();
    const demon::PayloadShape& shape = place->second;
    const demon::Parts parts = input.expanded();
    demon::fuzz::checkDecoded(decodeWithinBounds(parts, shape), parts, shape);
    return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t maxSize,
                                               unsigned int seed)
{
    demon::fuzz::Mutator mutator(seed);
    const std::string mutated = mutator.mutate({reinterpret_cast<const char*>(data), size}, maxSize);
    std::memcpy(data, mutated.data(), mutated.size());
    return mutated.size();
}

extern "C" std::size_t LLVMFuzzerCustomCrossOver(const std::uint8_t* first, std::size_t firstSize,
                                                 const std::uint8_t* second, std::size_t secondSize, std::uint8_t* out,
                                                 std::size_t maxSize, unsigned int seed)
{
    demon::fuzz::Mutator mutator(seed);
    const std::string crossed = mutator.cross({reinterpret_cast<const char*>(first), firstSize},
                                              {reinterpret_cast<const char*>(second), secondSize}, maxSize);
    std::memcpy(out, crossed.data(), crossed.size());
    return crossed.size();
}
