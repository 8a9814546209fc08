// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "demon/codec.h"

/// A message and its track's shape in the bytes of one file, as the fuzzers and the kept corpus have them; cases.py is
/// its twin. Any bytes are a case:
///
///     byte      rate: its low seven bits, modulo the number of kRates, are an index into them
///               bit 7: the lanes are those of lanes.toml, so that their ranges count (C++ only)
///     byte      number of lanes
///     parts, until the bytes or kMaxParts are used up, each:
///       byte    even: literal; odd: filled
///       3 bytes size, little-endian; of a filled part modulo kMaxFilled + 1
///       then    literal: the bytes, as many as there are; filled: 4 bytes, which are repeated
///
/// A filled part stands for a payload, which would be thousands of bytes of no interest to a fuzzer.
namespace demon::fuzz
{
inline constexpr int kRates[] = {8000, 11025, 22050, 44100, 48000, 96000, 192000};
inline constexpr std::size_t kMaxParts = 6;
inline constexpr std::size_t kMaxFilled = (1u << 15) + 64; ///< more would only be slower

/// One part as the file has it.
struct CasePart
{
    bool filled = false;
    std::size_t size = 0; ///< of a filled part
    std::string bytes;    ///< of a literal one; else the four to repeat
};

struct Case
{
    std::uint8_t rate = 0, lanes = 0;
    std::vector<CasePart> parts;

    int rateIndex() const { return (rate & 0x7F) % static_cast<int>(sizeof kRates / sizeof *kRates); }
    bool hasNames() const { return (rate & 0x80) != 0; }
    PayloadShape shape(bool mayBeNamed = true) const
    {
        PayloadShape shape;
        shape.rate = kRates[rateIndex()];
        for (std::size_t i = 0; i < lanes; ++i)
            shape.laneIds.push_back(mayBeNamed && hasNames() && i < kLanes.size() ? kLanes[i].id
                                                                                  : "unnamed_" + std::to_string(i));
        return shape;
    }
    Parts expanded() const
    {
        Parts whole;
        for (const CasePart& part : parts)
        {
            std::string bytes = part.bytes;
            if (part.filled)
            {
                bytes.resize(part.size);
                for (std::size_t i = 4; i < part.size; i *= 2) // doubling: byte by byte is slow where memory is checked
                    std::memcpy(&bytes[i], &bytes[0], std::min(i, part.size - i));
            }
            whole.push_back(std::move(bytes));
        }
        return whole;
    }
};

inline Case readCase(std::string_view data)
{
    Case result;
    std::size_t at = 0;
    const auto take = [&] { return at < data.size() ? static_cast<std::uint8_t>(data[at++]) : std::uint8_t{0}; };
    result.rate = take();
    result.lanes = take();
    while (at < data.size() && result.parts.size() < kMaxParts)
    {
        CasePart part;
        part.filled = (take() & 1) != 0;
        std::size_t size = take();
        size |= std::size_t{take()} << 8;
        size |= std::size_t{take()} << 16;
        if (part.filled)
        {
            part.size = size % (kMaxFilled + 1);
            for (int i = 0; i < 4; ++i)
                part.bytes.push_back(static_cast<char>(take()));
        }
        else
        {
            part.bytes = std::string(data.substr(at, size));
            at += part.bytes.size();
        }
        result.parts.push_back(std::move(part));
    }
    return result;
}

inline std::string writeCase(const Case& source)
{
    std::string data{static_cast<char>(source.rate), static_cast<char>(source.lanes)};
    for (const CasePart& part : source.parts)
    {
        const std::size_t size = part.filled ? part.size : part.bytes.size();
        data.push_back(part.filled ? '\1' : '\0');
        for (int shift = 0; shift < 24; shift += 8)
            data.push_back(static_cast<char>(size >> shift & 0xFFu));
        data += part.bytes;
    }
    return data;
}
} // namespace demon::fuzz
