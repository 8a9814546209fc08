// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>
#include <zstd.h>

/// Audio in fewer bytes and with every bit (SPEC.md, section 2, Packed audio). The codec alone calls this. Allocates;
/// any thread.
namespace demon::detail
{
inline constexpr int kPackingLevel = 1;
inline constexpr std::uint64_t kMaxPackingWindow = std::uint64_t{1} << 24; ///< bytes

/// One zstd frame of the samples' bytes, sorted by significance; empty if it would not be shorter than they are.
inline std::string packed(const std::vector<float>& samples)
{
    const std::size_t count = samples.size(), size = count * sizeof(float);
    std::string planes(size, '\0');
    for (std::size_t i = 0; i < count; ++i)
    {
        std::uint32_t bits = 0;
        std::memcpy(&bits, &samples[i], sizeof bits);
        for (std::size_t plane = 0; plane < sizeof bits; ++plane)
            planes[plane * count + i] = static_cast<char>(bits >> (8 * plane) & 0xFFu);
    }
    std::string frame(ZSTD_compressBound(size), '\0');
    const std::size_t used = ZSTD_compress(frame.data(), frame.size(), planes.data(), size, kPackingLevel);
    if (ZSTD_isError(used) != 0 || used >= size)
        return {};
    frame.resize(used);
    return frame;
}

/// The window that a frame asks for: bytes of its own content that a decoder which works piece by piece must keep.
inline std::uint64_t windowOf(std::string_view frame, std::uint64_t contentSize)
{
    const bool isWhole = (static_cast<unsigned char>(frame[4]) & 0x20u) != 0;
    if (isWhole)
        return contentSize;
    const auto descriptor = static_cast<unsigned char>(frame[5]);
    const std::uint64_t base = std::uint64_t{1} << (10 + (descriptor >> 3));
    return base + base / 8 * (descriptor & 7u);
}

/// What keeps a packed payload from being the `size` bytes that its header asks for, or null. Reads headers only.
inline const char* packingProblem(std::string_view frame, std::uint64_t size)
{
    constexpr std::string_view magic("\x28\xb5\x2f\xfd");
    if (frame.size() < 6 || frame.substr(0, magic.size()) != magic)
        return "is not a zstd frame"; // a skippable one states a size too
    if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != size)
        return "does not state the bytes that the header asks for";
    if (ZSTD_getDictID_fromFrame(frame.data(), frame.size()) != 0 || windowOf(frame, size) > kMaxPackingWindow)
        return "needs a dictionary, or a window of more than 16 MiB";
    if (ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size())
        return "is not one whole zstd frame";
    return nullptr;
}

/// Fills `samples` with the `count` ones that a frame holds. What is wrong with it, or null; before anything of that
/// size is allocated if the frame's header already tells.
inline const char* unpack(std::string_view frame, std::vector<float>& samples, std::size_t count)
{
    const std::size_t size = count * sizeof(float);
    if (const char* problem = packingProblem(frame, size))
        return problem;
    std::string planes(size, '\0');
    if (ZSTD_decompress(planes.data(), size, frame.data(), frame.size()) != size)
        return "does not unpack";
    samples.resize(count);
    for (std::size_t i = 0; i < count; ++i)
    {
        std::uint32_t bits = 0;
        for (std::size_t plane = 0; plane < sizeof bits; ++plane)
            bits |= std::uint32_t{static_cast<unsigned char>(planes[plane * count + i])} << (8 * plane);
        std::memcpy(&samples[i], &bits, sizeof bits);
    }
    return nullptr;
}
} // namespace demon::detail
