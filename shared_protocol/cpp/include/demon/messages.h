// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

/// The messages of SPEC.md as plain structs. `visit` is a message's field table: names, order and ranges exactly as in
/// the document. The codec walks it to encode and to decode, so a field is stated once.
namespace demon
{
inline constexpr int kProtocolVersion = 3;
inline constexpr std::int64_t kMaxEpoch = (std::int64_t{1} << 31) - 1;
inline constexpr std::int64_t kMaxPosition = std::int64_t{1} << 53;
inline constexpr int kMaxLatencyFrames = 3000;
inline constexpr int kMaxFeedFrames = 64;
inline constexpr int kMaxWindowFrames = 256;
inline constexpr int kMaxEdits = 65536;
inline constexpr int kMaxCredit = 3000; ///< frames on their way
inline constexpr std::size_t kTicketDigits = 32;
inline constexpr int kMaxOpenEpochs = 64; ///< of a track
inline constexpr std::int64_t kMaxReferenceSamples = 60LL * 192000;
inline constexpr std::int64_t kMaxReferencePiece = 65536;
inline constexpr std::size_t kLoraSlots = 4;
inline constexpr std::size_t kMaxCatalogue = 256;                     ///< LoRAs of an engine
inline constexpr std::size_t kMaxReportBytes = 60000;                 ///< of a `state`
inline constexpr std::int64_t kMaxClipFrames = std::int64_t{1} << 24; ///< an edit names frames in binary32

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
inline constexpr const char* reference = "E_REFERENCE";
inline constexpr const char* lora = "E_LORA";
inline constexpr const char* clip = "E_CLIP";
inline constexpr const char* keys = "E_KEYS";
inline constexpr const char* rate = "E_RATE";
} // namespace error

struct Config
{
    std::string prompt, promptB; ///< the lane prompt_blend goes from the first to the second
    std::int64_t seed = 0;
    std::int64_t steps = 0;
    std::string solver = "ode";
    std::vector<std::string> loras;  ///< content hash per slot, "" for an empty one; lanes lora_1.. are their strengths
    std::string timbre, structure;   ///< hash of the reference, "" for none
    std::int64_t feedbackRounds = 1; ///< of a commit
    std::int64_t bpm = 0, meter = 0; ///< 0: not told to the model

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("prompt", self.prompt, 0, 4096);
        v.text("prompt_b", self.promptB, 0, 4096);
        v.integer("seed", self.seed, 0, 4294967295LL);
        v.integer("steps", self.steps, 0, 50);
        v.oneOf("solver", self.solver, {"ode", "sde"});
        v.hashes("loras", self.loras, kLoraSlots);
        v.hashOrNone("timbre", self.timbre);
        v.hashOrNone("structure", self.structure);
        v.integer("feedback_rounds", self.feedbackRounds, 1, 8);
        v.integerOrZero("bpm", self.bpm, 20, 400);
        v.integer("meter", self.meter, 0, 16);
    }
    bool operator==(const Config& o) const
    {
        return prompt == o.prompt && promptB == o.promptB && seed == o.seed && steps == o.steps && solver == o.solver &&
               loras == o.loras && timbre == o.timbre && structure == o.structure &&
               feedbackRounds == o.feedbackRounds && bpm == o.bpm && meter == o.meter;
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
    std::string mode = "stream";  ///< or "loop"
    std::int64_t latency = 1;     ///< frames; a loop's is 0
    std::int64_t credit = 250;    ///< frames of windows that may come without being acknowledged
    std::string packing = "none"; ///< or "zstd": how audio may travel
    std::vector<std::string> lanes;
    Config config;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("protocol", self.protocol, 1, 65535);
        v.text("client", self.client, 1, 64);
        v.rate("rate", self.rate);
        v.oneOf("mode", self.mode, {"stream", "loop"});
        v.integer("latency", self.latency, 0, kMaxLatencyFrames);
        v.integer("credit", self.credit, 1, kMaxCredit);
        v.oneOf("packing", self.packing, {"none", "zstd"});
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
    std::int64_t epoch = 1;
    std::string kind = "stream"; ///< "loop": regenerated after its end; "commit": a loop made once, for a bounce
    std::int64_t start = 0, feedFrom = 0, deliverFrom = 0;
    bool offline = false;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.oneOf("kind", self.kind, {"stream", "loop", "commit"});
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
    std::string packing = "none"; ///< of the audio on the wire
    std::vector<float> audio;     ///< [2, count * rate / 25]
    std::vector<float> lanes;     ///< [count, lanes of hello]

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("count", self.count, 1, kMaxFeedFrames);
        v.packing("packing", self.packing);
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

/// Changes of a loop's lanes, in order.
struct Edit
{
    static constexpr const char* type = "edit";
    std::int64_t epoch = 1, revision = 0, count = 1;
    std::vector<float>
        edits; ///< [count, 4]: lane column, first frame, frame after the last, value; frames from the clip's first

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("revision", self.revision, 0, kMaxEpoch);
        v.integer("count", self.count, 1, kMaxEdits);
        v.editPayload(self.edits, self.count);
    }
};

/// A piece of a reference's audio, named by the hash of the whole.
struct Reference
{
    static constexpr const char* type = "reference";
    std::string hash;
    std::int64_t rate = 48000;
    std::int64_t total = 1, first = 0, count = 1; ///< samples
    std::string packing = "none";                 ///< of the audio on the wire
    std::vector<float> audio;                     ///< [2, count]

    const char* problem() const { return first + count > total ? "first + count lies beyond total" : nullptr; }

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.hexDigits("hash", self.hash, 64);
        v.rate("rate", self.rate);
        v.integer("total", self.total, 1, kMaxReferenceSamples);
        v.integer("first", self.first, 0, kMaxReferenceSamples);
        v.integer("count", self.count, 1, kMaxReferencePiece);
        v.packing("packing", self.packing);
        v.piecePayload(self.audio, self.count);
    }
};

struct Ping
{
    static constexpr const char* type = "ping";
    std::int64_t number = 0; ///< comes back in the answer
    std::int64_t epoch = 0, wanted = 0;
    std::int64_t received = 0; ///< frames of windows that have come since the welcome

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("number", self.number, 0, kMaxEpoch);
        v.integer("epoch", self.epoch, 0, kMaxEpoch);
        v.integer("wanted", self.wanted, -kMaxPosition, kMaxPosition);
        v.integer("received", self.received, 0, kMaxPosition);
    }
};

/// What was on its way by the audio connection is lost: another stands in its place.
struct Resend
{
    static constexpr const char* type = "resend";
    template <class Visitor, class Self> static void visit(Visitor&, Self&) {}
};

struct Bye
{
    static constexpr const char* type = "bye";
    template <class Visitor, class Self> static void visit(Visitor&, Self&) {}
};

/// How is the engine? For tools; a plugin asks with pings.
struct Status
{
    static constexpr const char* type = "status";
    template <class Visitor, class Self> static void visit(Visitor&, Self&) {}
};

// --- from the server -------------------------------------------------------------------------------------------------

struct Welcome
{
    static constexpr const char* type = "welcome";
    std::int64_t protocol = kProtocolVersion;
    std::string ticket;           ///< names the audio socket of this track
    std::int64_t credit = 250;    ///< frames that may be fed beyond what was taken
    std::string packing = "none"; ///< agreed on
    std::string server, checkpoint, checkpointHash, backend;
    std::vector<std::string> lanes, costs;     ///< what the engine acts on, and at which cost: free, encode or refit
    std::int64_t minimumLatency = 1;           ///< frames
    std::int64_t retain = 0;                   ///< frames
    std::int64_t steps = 8;                    ///< the checkpoint's own
    std::int64_t depth = 4;                    ///< slots of the ring
    std::int64_t clipLimit = 0;                ///< frames that a loop's clip may have
    std::vector<std::string> loras, loraNames; ///< the catalogue: content hashes and names

    const char* problem() const
    {
        for (const std::string& cost : costs)
            if (cost != "free" && cost != "encode" && cost != "refit")
                return "costs must be free, encode or refit";
        const auto isEmpty = [](const std::string& text) { return text.empty(); };
        if (std::any_of(loras.begin(), loras.end(), isEmpty) ||
            std::any_of(loraNames.begin(), loraNames.end(), isEmpty))
            return "loras must be hashes, and have names";
        return costs.size() != lanes.size()       ? "costs and lanes differ in length"
               : loraNames.size() != loras.size() ? "lora_names and loras differ in length"
                                                  : nullptr;
    }

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("protocol", self.protocol, 1, 65535);
        v.hexDigits("ticket", self.ticket, kTicketDigits);
        v.integer("credit", self.credit, 1, kMaxCredit);
        v.oneOf("packing", self.packing, {"none", "zstd"});
        v.text("server", self.server, 1, 64);
        v.text("checkpoint", self.checkpoint, 1, 128);
        v.hexDigits("checkpoint_hash", self.checkpointHash, 64);
        v.text("backend", self.backend, 1, 64);
        v.laneIds("lanes", self.lanes);
        v.texts("costs", self.costs, 256, 16);
        v.integer("minimum_latency", self.minimumLatency, 1, kMaxLatencyFrames);
        v.integer("retain", self.retain, 0, 6000);
        v.integer("steps", self.steps, 1, 50);
        v.integer("depth", self.depth, 1, 256);
        v.integer("clip_limit", self.clipLimit, 0, kMaxClipFrames);
        v.hashes("loras", self.loras, kMaxCatalogue);
        v.texts("lora_names", self.loraNames, kMaxCatalogue, 128);
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
    std::int64_t epoch = 1;
    std::int64_t take = 0; ///< number of a loop's generation, from 1; else 0
    std::int64_t frame = 0, count = 1;
    std::string packing = "none"; ///< of the audio on the wire
    std::vector<float> audio;     ///< [2, count * rate / 25]

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("take", self.take, 0, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("count", self.count, 1, kMaxWindowFrames);
        v.packing("packing", self.packing);
        v.audioPayload(self.audio, self.count);
    }
};

/// Answers an edit once it has taken effect.
struct Edited
{
    static constexpr const char* type = "edited";
    std::int64_t epoch = 1, revision = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("revision", self.revision, 0, kMaxEpoch);
    }
};

/// A reference is there, whole.
struct Referenced
{
    static constexpr const char* type = "referenced";
    std::string hash;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.hexDigits("hash", self.hash, 64);
    }
};

struct Progress
{
    static constexpr const char* type = "progress";
    std::int64_t epoch = 1, frame = 0, step = 0, steps = 0;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("epoch", self.epoch, 1, kMaxEpoch);
        v.integer("frame", self.frame, -kMaxPosition, kMaxPosition);
        v.integer("step", self.step, 0, 50);
        v.integer("steps", self.steps, 0, 50);
    }
};

struct Pong
{
    static constexpr const char* type = "pong";
    std::int64_t number = 0;                    ///< of the ping that it answers; 0: sent because input was taken
    std::vector<std::int64_t> epochs, expected; ///< what the engine knows of, and which frame of each it expects next
    double ticks = 0.0, generations = 0.0;      ///< of the engine, per second; 0 while it rests

    const char* problem() const
    {
        return epochs.size() != expected.size() ? "epochs and expected differ in length" : nullptr;
    }

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.integer("number", self.number, 0, kMaxEpoch);
        v.integers("epochs", self.epochs, kMaxOpenEpochs, 1, kMaxEpoch);
        v.integers("expected", self.expected, kMaxOpenEpochs, -kMaxPosition, kMaxPosition);
        v.real("ticks", self.ticks, 0.0, 1e6);
        v.real("generations", self.generations, 0.0, 1e6);
    }
};

/// The track belongs to another engine: say hello there.
struct Redirect
{
    static constexpr const char* type = "redirect";
    std::string endpoint;
    std::string key; ///< public key of that engine, or empty

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("endpoint", self.endpoint, 1, 256);
        v.publicKeyOrNone("key", self.key);
    }
};

/// The engine stops, or is loaded anew: say hello again.
struct Closing
{
    static constexpr const char* type = "closing";
    std::string reason;

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("reason", self.reason, 0, 256);
    }
};

/// Answers a status.
struct State
{
    static constexpr const char* type = "state";
    std::string report; ///< a JSON object

    template <class Visitor, class Self> static void visit(Visitor& v, Self& self)
    {
        v.text("report", self.report, 2, kMaxReportBytes);
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

using Message =
    std::variant<Hello, Configure, Begin, Feed, End, Drop, Edit, Reference, Ping, Resend, Bye, Status, Welcome,
                 Configured, Window, Edited, Referenced, Progress, Pong, Redirect, Closing, State, Error>;

/// What carries audio. Its `packing` says how, when decoded; how it shall be, when encoded.
template <class M>
inline constexpr bool isPackable = std::is_same_v<M, Feed> || std::is_same_v<M, Reference> || std::is_same_v<M, Window>;

/// What travels on the audio socket, since it must not be overtaken; all else goes by the control socket.
inline bool isOrdered(const Message& message)
{
    return std::visit(
        [](const auto& m)
        {
            using M = std::decay_t<decltype(m)>;
            return std::is_same_v<M, Configure> || std::is_same_v<M, Begin> || std::is_same_v<M, Feed> ||
                   std::is_same_v<M, End> || std::is_same_v<M, Edit> || std::is_same_v<M, Reference> ||
                   std::is_same_v<M, Window>;
        },
        message);
}
} // namespace demon
