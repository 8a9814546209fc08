// SPDX-License-Identifier: AGPL-3.0-or-later
#include "SavedAudio.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace demon
{
namespace
{
constexpr std::size_t kBytes = sizeof(float);
constexpr int kCompression = 1; // the least effort: a project is saved while the user waits
} // namespace

juce::String savedAudio::pack(const float* values, std::size_t count)
{
    std::vector<std::uint8_t> planes(count * kBytes);
    for (std::size_t i = 0; i < count; ++i)
    {
        std::uint8_t bytes[kBytes];
        std::memcpy(bytes, values + i, kBytes);
        for (std::size_t plane = 0; plane < kBytes; ++plane)
            planes[plane * count + i] = bytes[plane];
    }
    juce::MemoryOutputStream packed;
    {
        juce::GZIPCompressorOutputStream compressor(packed, kCompression);
        compressor.write(planes.data(), planes.size());
    }
    return juce::Base64::toBase64(packed.getData(), packed.getDataSize());
}

bool savedAudio::unpack(const juce::String& text, std::size_t count, std::vector<float>& values)
{
    values.clear();
    juce::MemoryOutputStream packed;
    if (!juce::Base64::convertFromBase64(packed, text))
        return false;
    juce::MemoryInputStream bytes(packed.getData(), packed.getDataSize(), false);
    juce::GZIPDecompressorInputStream decompressor(bytes);
    std::vector<std::uint8_t> planes(count * kBytes + 1); // one more: to see that there is no more
    std::size_t size = 0;
    while (size < planes.size())
    {
        const std::size_t room = std::min<std::size_t>(planes.size() - size, 1 << 20);
        const int got = decompressor.read(planes.data() + size, static_cast<int>(room));
        if (got <= 0)
            break;
        size += static_cast<std::size_t>(got);
    }
    if (size != count * kBytes)
        return false;
    values.resize(count);
    for (std::size_t i = 0; i < count; ++i)
    {
        std::uint8_t own[kBytes];
        for (std::size_t plane = 0; plane < kBytes; ++plane)
            own[plane] = planes[plane * count + i];
        std::memcpy(&values[i], own, kBytes);
    }
    if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
        return true;
    values.clear();
    return false;
}
} // namespace demon
