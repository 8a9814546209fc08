// SPDX-License-Identifier: AGPL-3.0-or-later
// Packed audio: the bits unchanged, and nothing that a frame may hold does harm.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "catch.h"
#include "demon/codec.h"

using namespace demon;

namespace
{
const PayloadShape kShape{8000, {"denoise"}};
constexpr std::size_t kSamples = 2 * 2 * 320;

Window windowOf(std::vector<float> audio)
{
    Window window{1, 0, 0, 2, "zstd", std::move(audio)};
    window.audio.resize(kSamples);
    return window;
}

Decoded decodeParts(const Parts& parts) { return decode({parts.begin(), parts.end()}, kShape); }

std::string errorOf(const Parts& parts)
{
    const Decoded decoded = decodeParts(parts);
    const auto* fault = std::get_if<Fault>(&decoded);
    return fault != nullptr ? fault->code : "";
}

std::vector<std::uint32_t> bitsOf(const std::vector<float>& samples)
{
    std::vector<std::uint32_t> bits(samples.size());
    std::memcpy(bits.data(), samples.data(), samples.size() * sizeof(float));
    return bits;
}

float floatOf(std::uint32_t bits)
{
    float value = 0.0f;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

std::vector<float> tone()
{
    std::vector<float> samples(kSamples);
    for (std::size_t i = 0; i < kSamples; ++i)
        samples[i] = 0.3f * std::sin(0.01f * static_cast<float>(i));
    return samples;
}
} // namespace

TEST_CASE("packed audio comes back bit for bit")
{
    std::mt19937 random(1);
    std::vector<std::vector<float>> cases{tone(), std::vector<float>(kSamples, -0.0f),
                                          std::vector<float>(kSamples, std::numeric_limits<float>::max())};
    cases.push_back(tone());
    const float ends[] = {-0.0f, std::numeric_limits<float>::denorm_min(), -std::numeric_limits<float>::denorm_min(),
                          std::numeric_limits<float>::lowest(), std::numeric_limits<float>::min()};
    std::copy(std::begin(ends), std::end(ends), cases.back().begin());
    for (int round = 0; round < 20; ++round)
    {
        std::vector<float> any(kSamples);
        for (float& value : any)
            do
                value = floatOf(static_cast<std::uint32_t>(random()));
            while (!std::isfinite(value));
        cases.push_back(any);
    }
    for (const std::vector<float>& samples : cases)
    {
        const Decoded decoded = decodeParts(encode(windowOf(samples)));
        REQUIRE(std::holds_alternative<Message>(decoded));
        CHECK(bitsOf(std::get<Window>(std::get<Message>(decoded)).audio) == bitsOf(samples));
    }
}

TEST_CASE("feeds and pieces of references are packed as windows are, their lanes are not")
{
    Feed feed;
    feed.count = 2;
    feed.packing = "zstd";
    feed.audio = tone();
    feed.lanes = {0.25f, 0.5f};
    const Parts parts = encode(feed);
    CHECK(parts[1].size() < kSamples * sizeof(float));
    CHECK(parts[2].size() == 2 * sizeof(float));
    const Decoded decoded = decodeParts(parts);
    CHECK(std::get<Feed>(std::get<Message>(decoded)).packing == "zstd");
    CHECK(std::get<Feed>(std::get<Message>(decoded)).audio == tone());
    CHECK(std::get<Feed>(std::get<Message>(decoded)).lanes == feed.lanes);

    Reference piece;
    piece.hash = std::string(64, 'a');
    piece.total = piece.count = kSamples / 2;
    piece.packing = "zstd";
    piece.audio = tone();
    const Decoded other = decodeParts(encode(piece));
    CHECK(std::get<Reference>(std::get<Message>(other)).audio == tone());
}

TEST_CASE("what would not become shorter travels as it is")
{
    std::mt19937 random(2);
    std::vector<float> noise(kSamples);
    for (float& value : noise)
        do
            value = floatOf(static_cast<std::uint32_t>(random()));
        while (!std::isfinite(value));
    Window plain = windowOf(noise);
    plain.packing = "none";
    CHECK(encode(windowOf(noise)) == encode(plain));
}

TEST_CASE("a frame of another size, or a broken one, is refused")
{
    const Parts good = encode(windowOf(tone()));
    Parts other = encode(windowOf(tone()));
    Window shorter{1, 0, 0, 1, "zstd", std::vector<float>(kSamples / 2, 0.5f)};
    other[1] = encode(shorter)[1];
    CHECK(errorOf(other) == error::payloadSize);
    for (std::size_t length = 0; length < good[1].size(); ++length)
    {
        Parts parts = good;
        parts[1].resize(length);
        REQUIRE(errorOf(parts) == error::payloadSize);
    }
    Parts longer = good;
    longer[1] += '\0';
    CHECK(errorOf(longer) == error::payloadSize);
    Parts unpacked = good;
    unpacked[1] = std::string(kSamples * sizeof(float), '\0');
    CHECK(errorOf(unpacked) == error::payloadSize);
}

TEST_CASE("any flipped byte of a frame is refused or decoded to as many samples, never worse")
{
    const Parts good = encode(windowOf(tone()));
    std::mt19937 random(3);
    for (int round = 0; round < 5000; ++round)
    {
        Parts parts = good;
        const std::size_t reach = round % 2 == 0 ? 16 : parts[1].size(); // headers, or anywhere
        parts[1][random() % reach] = static_cast<char>(random());
        const Decoded decoded = decodeParts(parts);
        if (const auto* message = std::get_if<Message>(&decoded))
            REQUIRE(std::get<Window>(*message).audio.size() == kSamples);
    }
}
