// SPDX-License-Identifier: AGPL-3.0-or-later
// The golden bytes that both languages must agree on.
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
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
    bool valid = false;
    std::string word; ///< the type of a valid message, the error of an invalid one
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
        std::string kind;
        std::size_t lanes = 0;
        std::istringstream(line) >> v.file >> kind >> v.word >> v.shape.rate >> lanes;
        v.valid = kind == "valid";
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

TEST_CASE("every golden vector decodes to its type and encodes to the same bytes, or gives the named error")
{
    const std::vector<Vector> vectors = readIndex();
    REQUIRE(vectors.size() > 20);
    for (const Vector& v : vectors)
    {
        INFO(v.file);
        const demon::Parts parts = readParts(v.file);
        const demon::Decoded decoded = demon::decode({parts.begin(), parts.end()}, v.shape);
        if (v.valid)
        {
            if (const auto* fault = std::get_if<demon::Fault>(&decoded))
                FAIL(fault->code << ": " << fault->text);
            const auto& message = std::get<demon::Message>(decoded);
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
