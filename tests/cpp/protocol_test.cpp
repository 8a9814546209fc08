// SPDX-License-Identifier: AGPL-3.0-or-later
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "catch.h"
#include "core/WireLanes.h"
#include "demon/codec.h"

using namespace demon;

namespace
{
const PayloadShape kShape{8000, {"denoise", "guidance"}};

Feed validFeed()
{
    Feed feed;
    feed.epoch = 3;
    feed.frame = -7;
    feed.count = 2;
    feed.audio.assign(2 * 2 * 320, 0.25f);
    feed.lanes = {0.5f, 1.0f, 1.0f, 15.0f};
    return feed;
}

std::string errorOf(const Parts& parts)
{
    const Decoded decoded = decode({parts.begin(), parts.end()}, kShape);
    const auto* fault = std::get_if<Fault>(&decoded);
    return fault != nullptr ? fault->code : "";
}
} // namespace

TEST_CASE("a feed survives the trip and keeps its payloads")
{
    const Parts parts = encode(validFeed());
    const Decoded decoded = decode({parts.begin(), parts.end()}, kShape);
    const auto& feed = std::get<Feed>(std::get<Message>(decoded));
    CHECK(feed.frame == -7);
    CHECK(feed.audio == validFeed().audio);
    CHECK(feed.lanes == validFeed().lanes);
}

TEST_CASE("a lane value outside its range is named")
{
    Feed feed = validFeed();
    feed.lanes[1] = 15.5f;
    const Parts parts = encode(feed);
    const Decoded decoded = decode({parts.begin(), parts.end()}, kShape);
    CHECK(std::get<Fault>(decoded).code == std::string(error::laneRange));
    CHECK(std::get<Fault>(decoded).text.find("guidance") != std::string::npos);
}

TEST_CASE("header keys come in any order and unknown ones are ignored")
{
    msgpack::sbuffer buffer;
    msgpack::packer<msgpack::sbuffer> packer(buffer);
    packer.pack_map(6);
    packer.pack("wanted"), packer.pack(12);
    packer.pack("received"), packer.pack(5);
    packer.pack("number"), packer.pack(1);
    packer.pack("later_version"), packer.pack(std::vector<int>{1, 2});
    packer.pack("epoch"), packer.pack(4);
    packer.pack("type"), packer.pack("ping");
    const Decoded decoded = decode({std::string_view(buffer.data(), buffer.size())}, kShape);
    const auto& ping = std::get<Ping>(std::get<Message>(decoded));
    CHECK(ping.epoch == 4);
    CHECK(ping.wanted == 12);
}

TEST_CASE("keys are text and not there twice, wherever they are")
{
    const std::string drop = "\x83\xa4type\xa4"
                             "drop\xa5"
                             "epoch\x01";
    const std::string later = drop + "\xa5later";
    CHECK(errorOf({later + "\x81\xa1x\x02"}) == "");
    CHECK(errorOf({drop + "\xa5"
                          "epoch\x01"}) == error::malformed);
    CHECK(errorOf({later + "\x82\xa1x\x02\xa1x\x02"}) == error::malformed);
    CHECK(errorOf({later + "\x91\x81\x03\x02"}) == error::malformed);
    CHECK(errorOf({drop + "\xa2\xc3\x28\x01"}) == error::malformed);
}

TEST_CASE("a hello is of another version only if it says so")
{
    CHECK(errorOf({"\x81\xa4type\xa5hello"}) == error::malformed);
    CHECK(errorOf({"\x82\xa4type\xa5hello\xa8protocol\xc3"}) == error::malformed);
    CHECK(errorOf({"\x82\xa4type\xa5hello\xa8protocol\x7f"}) == error::protocolVersion);
}

TEST_CASE("what a server says of its progress and its catalogue is checked like the rest")
{
    Progress progress;
    CHECK(errorOf(encode(progress)) == "");
    progress.epoch = 0;
    CHECK(errorOf(encode(progress)) == error::field);
    progress = {};
    progress.step = 51;
    CHECK(errorOf(encode(progress)) == error::field);

    Welcome welcome;
    welcome.ticket = std::string(kTicketDigits, '0');
    welcome.server = welcome.checkpoint = welcome.backend = "x";
    welcome.checkpointHash = std::string(64, '0');
    welcome.loras = {std::string(64, '1')};
    welcome.loraNames = {"choir"};
    CHECK(errorOf(encode(welcome)) == "");
    welcome.loraNames = {""};
    CHECK(errorOf(encode(welcome)) == error::field);
    welcome.loraNames = {"choir"};
    welcome.loras = {""};
    CHECK(errorOf(encode(welcome)) == error::field);
}

TEST_CASE("no header at all, and too many parts, are malformed")
{
    CHECK(std::get<Fault>(decode({}, kShape)).code == std::string(error::malformed));
    Parts parts = encode(Ping{});
    parts.emplace_back("surplus");
    CHECK(errorOf(parts) == error::malformed);
}

TEST_CASE("any truncation and any flipped byte of a header is refused or decoded, never worse")
{
    const Parts good = encode(validFeed());
    for (std::size_t length = 0; length < good[0].size(); ++length)
    {
        Parts parts = good;
        parts[0].resize(length);
        CHECK(errorOf(parts) == error::malformed);
    }
    std::mt19937 random(1);
    Hello hello;
    hello.client = "test";
    hello.lanes = {"denoise", "mask"};
    for (const Parts& original : {good, encode(hello), encode(Error{"E_BUSY", "full", 0})})
        for (int round = 0; round < 20000; ++round)
        {
            Parts parts = original;
            parts[0][random() % parts[0].size()] = static_cast<char>(random());
            parts[0][random() % parts[0].size()] = static_cast<char>(random());
            (void)decode({parts.begin(), parts.end()}, kShape);
        }
    SUCCEED();
}

TEST_CASE("deep nesting and announced giants do not exhaust anything")
{
    CHECK(errorOf({std::string(60000, '\x91')}) == error::malformed);
    CHECK(errorOf({std::string("\xdf\xff\xff\xff\xff", 5)}) == error::malformed);
    CHECK(errorOf({std::string("\xdb\xff\xff\xff\xff", 5)}) == error::malformed);
}

TEST_CASE("UTF-8 is checked strictly")
{
    CHECK(isUtf8("gr\xc3\xbc\xc3\x9f \xe2\x9c\x93 \xf0\x9f\x8e\xb5"));
    for (const char* bad : {"\x80", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\xe2\x9c"})
        CHECK_FALSE(isUtf8(bad));
}

TEST_CASE("the frame grid has no seam at zero")
{
    const FrameGrid grid = FrameGrid::forRate(48000);
    CHECK(grid.length == 1920);
    CHECK(grid.frameOf(-1) == -1);
    CHECK(grid.offsetOf(-1) == 1919);
    CHECK(grid.frameOf(-1920) == -1);
    CHECK(grid.frameOf(-1921) == -2);
    CHECK(grid.frameOf(1919) == 0);
    CHECK(grid.frameFrom(0) == 0);
    CHECK(grid.frameFrom(-1919) == 0);
    CHECK(grid.frameFrom(1) == 1);
    for (std::int64_t sample = -5000; sample < 5000; ++sample)
        REQUIRE(grid.firstSampleOf(grid.frameOf(sample)) + grid.offsetOf(sample) == sample);
}

TEST_CASE("only whole frames of 8 to 192 kHz are supported rates")
{
    for (const int rate : {8000, 22050, 44100, 48000, 88200, 96000, 192000})
        CHECK(isSupportedRate(rate));
    for (const int rate : {0, 7975, 11024, 44110, 192025})
        CHECK_FALSE(isSupportedRate(rate));
}

TEST_CASE("lane values come back to the same bits after a host's proportion")
{
    for (const LaneInfo& info : kLanes)
        for (int step = 0; step <= 1000; ++step)
        {
            const float plain =
                settledLaneValue(info, info.min + (info.max - info.min) * static_cast<float>(step) / 1000);
            const float proportion = std::pow((plain - info.min) / (info.max - info.min), info.skew);
            const float back = info.min + (info.max - info.min) * std::pow(proportion, 1.0f / info.skew);
            REQUIRE(settledLaneValue(info, back) == plain);
        }
}

TEST_CASE("output lanes stay in the plugin")
{
    const std::vector<std::string> ids = wireLaneIds();
    CHECK(ids.size() == kWireLaneCount);
    CHECK(std::set<std::string>(ids.begin(), ids.end()).count("mix") == 0);
    LaneValues values{};
    values[lane::denoise] = 0.25f;
    values[lane::lora_4] = 2.0f;
    CHECK(wireLanesOf(values).front() == 0.25f);
    CHECK(wireLanesOf(values).back() == 2.0f);
}
