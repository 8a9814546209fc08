// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

/// The messages of SPEC.md as plain structs. `visit` is a message's field table: names, order and ranges exactly as in
/// the document. The codec walks it to encode and to decode, so a field is stated once.
namespace demon
{
inline constexpr int kProtocolVersion = 1;
inline constexpr std::int64_t kMaxEpoch = (std::int64_t{1} << 31) - 1;
inline constexpr std::int64_t kMaxPosition = std::int64_t{1} << 53;
inline constexpr int kMaxLatencyFrames = 3000;
inline constexpr int kMaxFeedFrames = 64;
inline constexpr int kMaxWindowFrames = 256;

/// Names of the protocol's errors (SPEC.md, section 6).
namespace error
{
inline constexpr const char* protocolVersion = "E_PROTOCOL_VERSION";
inline constexpr const char* unknownTrack = "E_UNKNOWN_TRACK";
inline constexpr const char* unknownMessage = "E_UNKNOWN_MESSAGE";
inline constexpr const char* malformed = "E_MALFORMED";
inline constexpr const char* field = "E_FIELD";
inline constexpr const char* payloadSize = "E_PAYLOAD_SIZE";
inline constexpr const char* notFinite = "E_NOT_FINITE";
inline constexpr const char* laneRange = "E_LANE_RANGE";
inline constexpr const char* sampleRate = "E_SAMPLE_RATE";
inline constexpr const char* latency = "E_LATENCY";
inline constexpr const char* epoch = "E_EPOCH";
inline constexpr const char* feedGap = "E_FEED_GAP";
inline constexpr const char* limit = "E_LIMIT";
inline constexpr const char* busy = "E_BUSY";
inline constexpr const char* engine = "E_ENGINE";
} // namespace error

struct Config
{
    std::string prompt;
    std::int64_t seed = 0;
    std::int64_t steps = 0;
    std::string solver = "ode";

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("prompt", self.prompt, 0, 4096);
        v.integer("seed", self.seed, 0, 4294967295LL);
        v.integer("steps", self.steps, 0, 50);
        v.oneOf("solver", self.solver, {"ode", "sde"});
    }
    bool operator==(const Config& o) const
    {
        return prompt == o.prompt && seed == o.seed && steps == o.steps && solver == o.solver;
    }
    bool operator!=(const Config& o) const { return !(*this == o); }
};

// --- from the client -------------------------------------------------------------------------------------------------

struct Hello
{
    static constexpr const char* type = "hello";
    std::int64_t protocol = kProtocolVersion;
    std::string client;
    std::int64_t rate = 48000;
    std::int64_t latency = 1; ///< frames
    std::vector<std::string> lanes;
    Config config;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("protocol", self.protocol, 1, 65535);
        v.text("client", self.client, 1, 64);
        v.rate("rate", self.rate);
        v.integer("latency", self.latency, 1, kMaxLatencyFrames);
        v.laneIds("lanes", self.lanes);
        v.map("config", self.config);
    }
};

struct Configure
{
    static constexpr const char* type = "configure";
    std::int64_t revision = 0;
    Config config;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("revision", self.revision, 0, kMaxEpoch);
        v.map("config", self.config);
    }
};

struct Begin
{
    static constexpr const char* type = "begin";
    std::int64_t epoch = 1, start = 0, feedFrom = 0, deliverFrom = 0;
    bool offline = false;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("start", self.start, -kMaxPosition, kMaxPosition);
        v.integer("feed_from", self.feedFrom, -kMaxPosition, kMaxPosition);
        v.integer("deliver_from", self.deliverFrom, -kMaxPosition, kMaxPosition);
        v.boolean("offline", self.offline);
    }
};

struct Feed
{
    static constexpr const char* type = "feed";
    std::int64_t epoch = 1, frame = 0, count = 1;
    std::vector<float> audio; ///< [2, count * rate / 25]
    std::vector<float> lanes; ///< [count, lanes of hello]

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("count", self.count, 1, kMaxFeedFrames);
        v.audioPayload(self.audio, self.count);
        v.lanePayload(self.lanes, self.count);
    }
};

struct End
{
    static constexpr const char* type = "end";
    std::int64_t epoch = 1, frame = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
    }
};

struct Drop
{
    static constexpr const char* type = "drop";
    std::int64_t epoch = 1;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
    }
};

struct Ping
{
    static constexpr const char* type = "ping";
    std::int64_t epoch = 0, wanted = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
        v.integer("wanted", self.wanted, -kMaxPosition, kMaxPosition);
    }
};

struct Bye
{
    static constexpr const char* type = "bye";
    template <class Visitor, class Self> static void visit(Visitor&, Self&) {}
};

// --- from the server -------------------------------------------------------------------------------------------------

struct Welcome
{
    static constexpr const char* type = "welcome";
    std::int64_t protocol = kProtocolVersion;
    std::string server, checkpoint, checkpointHash, backend;
    std::vector<std::string> lanes;
    std::int64_t minimumLatency = 1; ///< frames
    std::int64_t retain = 0;         ///< frames

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("protocol", self.protocol, 1, 65535);
        v.text("server", self.server, 1, 64);
        v.text("checkpoint", self.checkpoint, 1, 128);
        v.hexDigits("checkpoint_hash", self.checkpointHash, 64);
        v.text("backend", self.backend, 1, 64);
        v.laneIds("lanes", self.lanes);
        v.integer("minimum_latency", self.minimumLatency, 1, kMaxLatencyFrames);
        v.integer("retain", self.retain, 0, 6000);
    }
};

struct Configured
{
    static constexpr const char* type = "configured";
    std::int64_t revision = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("revision", self.revision, 0, kMaxEpoch);
    }
};

struct Window
{
    static constexpr const char* type = "window";
    std::int64_t epoch = 1, frame = 0, count = 1;
    std::vector<float> audio; ///< [2, count * rate / 25]

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("count", self.count, 1, kMaxWindowFrames);
        v.audioPayload(self.audio, self.count);
    }
};

struct Progress
{
    static constexpr const char* type = "progress";
    std::int64_t epoch = 1, frame = 0, step = 0, steps = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("step", self.step, 0, kMaxEpoch);
        v.integer("steps", self.steps, 0, kMaxEpoch);
    }
};

struct Pong
{
    static constexpr const char* type = "pong";
    std::int64_t epoch = 0, expected = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
        v.integer("expected", self.expected, -kMaxPosition, kMaxPosition);
    }
};

struct Error
{
    static constexpr const char* type = "error";
    std::string code, message;
    std::int64_t epoch = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("code", self.code, 1, 32);
        v.text("message", self.message, 0, 1024);
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
    }
};

using Message = std::variant<Hello, Configure, Begin, Feed, End, Drop, Ping, Bye, Welcome, Configured, Window, Progress,
                             Pong, Error>;
} // namespace demon
