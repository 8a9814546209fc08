// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "EditQueue.h"
#include "EpochRecord.h"
#include "LinkTimes.h"
#include "core/StreamItems.h"
#include "core/Waiting.h"
#include "demon/messages.h"
#include "services/RenderRecorder.h"

namespace demon
{
enum class LinkState
{
    idle,    ///< the host has not prepared the plugin
    waiting, ///< hello sent, no answer yet
    ready,   ///< welcomed
    refused, ///< hello answered by an error, or no way there for the keys: tried again every two seconds
    lost     ///< silence: waiting before the next try
};

/// What the user may know about the link.
struct LinkStatus
{
    LinkState state = LinkState::idle;
    Welcome engine;                   ///< of the last welcome; empty texts before it
    std::string errorCode, errorText; ///< the last error, until acknowledged
    std::int64_t windows = 0;         ///< frames of audio received
    std::int64_t badMessages = 0;     ///< refused by the decoder
    std::int64_t framesGivenUp = 0;   ///< fed frames that had to be forgotten before they were delivered
    std::int64_t roundTripNanoseconds = 0;
    double ticks = 0.0, generations = 0.0; ///< of the engine, per second
    std::int64_t take = 0;                 ///< the newest of the loop, 0 before the first
    std::int64_t readyTo = 0,
                 fedTo = 0; ///< of the newest run in a stream: frames that have arrived, and that are known
    std::int64_t controlNanoseconds = 0; ///< from a loop's edit to the first audio made with it; 0: not measured yet
};

/// A loop's source and its lanes as they are now.
struct ClipSource
{
    std::int32_t epoch = 0;
    std::shared_ptr<const ClipAudio> source;
    std::shared_ptr<LaneTable> lanes; ///< follows the edits
};

/// The client's half of SPEC.md, section 5, as a state machine without socket, thread or clock: messages and times go
/// in, messages come out. Times are steady nanoseconds. Link thread only.
class TrackClient
{
public:
    /// `renders`, which must outlive this, hears of everything that is fed and delivered in order; or null.
    explicit TrackClient(std::string clientName, RenderRecorder* renders = nullptr);

    /// A new player (host rate, latency or mode): all epochs are forgotten and the track opens anew.
    void open(int rate, int latencyFrames, bool isLoop);

    /// No player any more: all epochs are forgotten, and nothing is wanted from an engine until the next open.
    void close();

    /// The same stream at another address: the track opens anew there, and every epoch is resumed where it stands.
    void reconnect();

    /// The connection has ended. An engine that the track was sent to is lost then: where it came from knows of
    /// another. One at the user's own address will be back there, and says by itself whether it knows the track.
    void disconnect(std::int64_t now);

    /// Another audio connection stands in the place of one that has ended: what was on the way is lost, both ways, and
    /// goes again at once, rather than when it is plain that nothing more comes.
    void resumeAudio(std::int64_t now);

    /// The owner could not go on: the error is shown, and the connection tried again after the usual wait.
    void fail(std::string code, std::string text, std::int64_t now);

    /// There is no way to the engine for the keys: E_KEYS with this text is shown until there is, or nobody is there.
    /// The owner closes the connection, and is told when to try again.
    void shutOut(std::string text, std::int64_t now);

    /// What the audio thread has sent, in order.
    void accept(const FeedItem& item);

    /// A clip that was not captured here: a dropped file's or a saved project's.
    void openClip(const ClipSource& clip);

    void closeClip(std::int32_t epoch) { release(epoch); }

    /// A change of a loop's lanes, in order.
    void accept(const LaneEdit& edit);

    /// The newest loop's clip, once it is whole; without a source before.
    const ClipSource& clip() const { return loop; }
    std::int64_t editCount() const { return editsTaken; } ///< changes to a clip's lanes so far

    /// The audio of references that a configuration may name.
    void provide(std::vector<std::shared_ptr<const ReferenceAudio>> known) { references = std::move(known); }

    /// How audio shall travel, "none" or "zstd": asked for at the next hello, and done if the engine agrees.
    void wishPacking(const std::string& wish) { wantedPacking = wish; }

    /// The newest configuration; goes out when it differs from the last one.
    void configure(const Config& newest);

    /// A message from the engine.
    void receive(const Message& message, std::int64_t now);

    /// Moves everything on to `now`. To be called every few milliseconds; then send takeOutbox().
    void tick(std::int64_t now, OutputCursor::Place output);

    /// True once after the connection has to be closed and opened anew, before the outbox is sent.
    bool takeReconnect();

    /// Where the track was sent to by the engine at the address that the user has chosen; empty while it is there.
    const std::optional<Redirect>& redirect() const { return elsewhere; }

    /// Once after every welcome: names the audio socket, which has to be opened before the outbox is sent. Else empty.
    std::string takeTicket();

    std::vector<Message> takeOutbox();

    /// The next frame for the audio thread, or null. They come in the order of (epoch, frame), whatever the order of
    /// arrival: windows of a later epoch wait until the earlier one is complete, or is not wanted any more. A loop's
    /// come as they arrive, behind those.
    WetFrame* nextWindow();
    void popWindow();

    /// The epoch whose windows will not come, however long an offline host waits: EngineSigns::kEveryEpoch while the
    /// engine refuses the track, 0 when there is none.
    std::int32_t hopelessEpoch() const;

    /// When a window, a progress message or a welcome arrived last.
    std::int64_t lastProgress() const { return progressAt; }

    const LinkStatus& status() const { return published; }
    void reportError(std::string code, std::string text);
    void acknowledgeError();
    void countBadMessage() { ++published.badMessages; }
    int rate() const { return sampleRate; }
    std::size_t keptEpochs() const { return records.size(); }

private:
    void forget();
    void on(const Welcome& message, std::int64_t now);
    void on(const Configured& message, std::int64_t now);
    void on(const Window& message, std::int64_t now);
    void on(const Edited& message, std::int64_t now);
    void on(const Progress& message, std::int64_t now);
    void on(const Pong& message, std::int64_t now);
    void on(const Redirect& message, std::int64_t now);
    void on(const Closing& message, std::int64_t now);
    void on(const Error& message, std::int64_t now);
    template <class FromClient> void on(const FromClient&, std::int64_t) {} // not for us

    void sayHello(std::int64_t now);
    void lose(std::int64_t now);
    void openAnew(std::int64_t now);
    void reopen(std::int64_t now);
    void forgetKeysError();
    void followOutput(OutputCursor::Place output);
    void forgetUnheard();
    bool beginEpoch(EpochRecord& record);
    void recordInput(const EpochRecord& record, std::int64_t frame);
    void stopRecording(const EpochRecord& record);
    void takeLoopWindow(EpochRecord& record, const Window& message, std::int64_t now);
    void beginCommit(const FeedItem& item);
    void release(std::int32_t epoch);
    void sendReferences();
    bool noteWanted(const std::string& text);
    void sendEdits(std::int64_t now);
    void sendConfiguration(std::int64_t now);
    void sendEpochs(std::int64_t now);
    void sendPing(std::int64_t now);
    void follow(EpochRecord& record, std::int64_t expected, std::int64_t now);
    bool isMissing(EpochRecord& record, std::int64_t now) const;
    void dropStrays(const Pong& message, std::int64_t now);
    void retireEpochs(OutputCursor::Place output);
    void dropThrough(std::int32_t epoch);
    void resumeAll();
    void refuseEpoch(EpochRecord& record, std::int64_t now);
    EpochRecord* find(std::int64_t epoch);

    const std::string name;
    RenderRecorder* const recorder;
    int sampleRate = 0;
    bool isLoopTrack = false;
    int latency = 0;
    FrameGrid grid;
    Config config, sentConfig;
    std::string wantedPacking = "none";
    std::int64_t revision = 0, confirmedRevision = 0;
    std::int64_t configureAt = 0; ///< when `configure` was sent last

    LinkStatus published;
    bool reconnectDue = false;
    std::optional<Redirect> elsewhere;
    std::int64_t redirectPatience = kFirstRedirectPatience; ///< with an engine that one was sent to
    std::string ticketDue;
    bool hasEngine = false;     ///< there was a welcome: its `retain` is known
    bool refusesTrack = false;  ///< in `refused`: by an answer that waiting does not change
    bool isShutOut = false;     ///< in `refused`: without a connection
    std::int64_t heardAt = 0;   ///< any message
    std::int64_t helloAt = 0;   ///< the last hello
    std::int64_t welcomeAt = 0; ///< the last welcome
    std::int64_t retryAt = 0;   ///< in `lost` and `refused`
    std::int64_t backOff;       ///< the next wait in `lost`
    std::int64_t pingAt = 0;    ///< the last ping
    std::int64_t progressAt = 0;
    std::int64_t pingNumber = 0;      ///< of the last ping
    std::int64_t framesReceived = 0;  ///< of windows, since the welcome
    std::int64_t framesConfirmed = 0; ///< of these, told by the last ping
    bool pingAtOnce = false;

    std::list<EpochRecord> records;              ///< oldest first
    std::map<std::int64_t, std::int64_t> strays; ///< epochs that pongs name although they were dropped, and since when
    std::deque<WetFrame> wetFrames;              ///< in the order of (epoch, frame)
    std::deque<WetFrame> takes;                  ///< of the loop, each frame once

    ClipSource loop;
    std::int64_t takesBefore = 0; ///< of engines that have answered before
    EditQueue edits;
    std::int64_t editsTaken = 0;
    std::int64_t lastTick = 0;
    std::int64_t editedAt = 0;       ///< when the oldest edit that has not been heard came; 0: none
    std::int64_t takeWhenEdited = 0; ///< the newest take when the engine confirmed it, 0 before
    std::vector<std::shared_ptr<const ReferenceAudio>> references;
    std::set<std::string> wantedReferences; ///< hashes that the engine has asked for
    bool isConfigurationRefused = false;    ///< the engine makes nothing until it likes the next one
    std::vector<Message> outbox;
};
} // namespace demon
