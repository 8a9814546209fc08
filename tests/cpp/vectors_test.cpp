// SPDX-License-Identifier: AGPL-3.0-or-later
// The golden bytes that both languages must agree on.
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "catch.h"
#include "core/WireLanes.h"
#include "demon/codec.h"
#include "demon/timebase.h"

namespace
{
struct Vector
{
    std::string file;
    std::string kind; ///< valid, packed or invalid
    std::string word; ///< the type of a valid message, the file of what a packed one unpacks to, an invalid one's error
    demon::PayloadShape shape;
};

std::vector<Vector> readIndex()
{
    std::ifstream index(DEMON_VECTORS "/index.txt");
    std::vector<Vector> vectors;
    std::string line;
    while (std::getline(index, line))
    {
        Vector v;
        std::size_t lanes = 0;
        std::istringstream(line) >> v.file >> v.kind >> v.word >> v.shape.rate >> lanes;
        for (std::size_t i = 0; i < lanes; ++i)
            v.shape.laneIds.push_back("unnamed_" + std::to_string(i)); // only their number matters to the codec
        vectors.push_back(v);
    }
    return vectors;
}

demon::Parts readParts(const std::string& file)
{
    std::ifstream stream(DEMON_VECTORS "/" + file, std::ios::binary);
    const auto readLength = [&]
    {
        unsigned char bytes[4] = {};
        stream.read(reinterpret_cast<char*>(bytes), 4);
        return std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
               std::uint32_t{bytes[3]} << 24;
    };
    demon::Parts parts(readLength());
    for (std::string& part : parts)
    {
        part.resize(readLength());
        stream.read(part.data(), static_cast<std::streamsize>(part.size()));
    }
    return parts;
}

/// The bytes of a message with its audio as it is.
demon::Parts encodedPlain(demon::Message message)
{
    std::visit(
        [](auto& m)
        {
            if constexpr (demon::isPackable<std::decay_t<decltype(m)>>)
                m.packing = "none";
        },
        message);
    return demon::encode(message);
}

float floatOf(const std::string& hexDigits)
{
    const auto bits = static_cast<std::uint32_t>(std::stoul(hexDigits, nullptr, 16));
    float value = 0.0f;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

const demon::LaneInfo& laneNamed(const std::string& id)
{
    for (const demon::LaneInfo& info : demon::kLanes)
        if (id == info.id)
            return info;
    FAIL("no lane " << id);
    return demon::kLanes[0];
}
} // namespace

TEST_CASE("every golden vector decodes and encodes to the stated bytes, or gives the named error")
{
    const std::vector<Vector> vectors = readIndex();
    REQUIRE(vectors.size() > 20);
    for (const Vector& v : vectors)
    {
        INFO(v.file);
        const demon::Parts parts = readParts(v.file);
        const demon::Decoded decoded = demon::decode({parts.begin(), parts.end()}, v.shape);
        if (v.kind != "invalid")
        {
            if (const auto* fault = std::get_if<demon::Fault>(&decoded))
                FAIL(fault->code << ": " << fault->text);
            const auto& message = std::get<demon::Message>(decoded);
            if (v.kind == "packed")
            {
                CHECK(encodedPlain(message) == readParts(v.word));
                continue;
            }
            REQUIRE(v.kind == "valid");
            CHECK(std::visit([](const auto& m) { return std::string(m.type); }, message) == v.word);
            CHECK(demon::encode(message) == parts);
        }
        else
        {
            REQUIRE(std::holds_alternative<demon::Fault>(decoded));
            CHECK(std::get<demon::Fault>(decoded).code == v.word);
        }
    }
}

TEST_CASE("lane values are settled to the same bits as in Python")
{
    std::ifstream lines(DEMON_VECTORS "/settled.txt");
    std::string id, value, settled;
    int count = 0;
    for (; lines >> id >> value >> settled; ++count)
    {
        INFO(id << ' ' << value);
        const float got = demon::settledLaneValue(laneNamed(id), floatOf(value));
        CHECK(got == floatOf(settled));
    }
    CHECK(count > 500);
}

TEST_CASE("samples lie in the same frames as in Python")
{
    std::ifstream lines(DEMON_VECTORS "/timebase.txt");
    std::int64_t rate = 0, sample = 0, frame = 0, first = 0;
    int count = 0;
    for (; lines >> rate >> sample >> frame >> first; ++count)
    {
        INFO(rate << ' ' << sample);
        const demon::FrameGrid grid = demon::FrameGrid::forRate(static_cast<int>(rate));
        CHECK(grid.frameOf(sample) == frame);
        CHECK(sample - grid.offsetOf(sample) == first);
    }
    CHECK(count > 50);
}
