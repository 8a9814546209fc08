// SPDX-License-Identifier: AGPL-3.0-or-later
// What a message from the engine changes. Sending is in TrackClient.cpp.
#include <algorithm>
#include <iterator>
#include <utility>

#include "LinkTimes.h"
#include "TrackClient.h"

namespace demon
{
namespace
{
constexpr int kMaxRefusals = 3; // of one epoch, before it is given up

/// Whether an error refuses the hello that waits for its answer; one with an epoch answers what was sent before it.
bool refusesHello(const Error& message)
{
    const auto refusals = {
        error::protocolVersion, error::sampleRate, error::latency, error::busy, error::malformed, error::field,
        error::unknownMessage,  error::limit,      error::engine,  error::rate, error::keys};
    return message.epoch == 0 && std::find(refusals.begin(), refusals.end(), message.code) != refusals.end();
}

/// Of these: what waiting does not change.
bool isFinal(const std::string& code)
{
    const auto refusals = {error::protocolVersion, error::sampleRate, error::latency, error::busy, error::keys};
    return std::find(refusals.begin(), refusals.end(), code) != refusals.end();
}

/// "0.1.0" of "demon-bridge 0.1.0".
std::string versionOf(const std::string& server) { return server.substr(server.rfind(' ') + 1); }

/// After these the engine has dropped the epoch.
bool isFatalToEpoch(const std::string& code) { return code == error::engine || code == error::clip; }
} // namespace

void TrackClient::receive(const Message& message, std::int64_t now)
{
    heardAt = now;
    std::visit([&](const auto& m) { on(m, now); }, message);
}

void TrackClient::on(const Welcome& message, std::int64_t now)
{
    if (published.state != LinkState::waiting)
        return;
    forgetKeysError();
    published.engine = message;
    ticketDue = message.ticket;
    framesReceived = framesConfirmed = 0;
    hasEngine = true;
    published.state = LinkState::ready;
    backOff = kFirstBackOff;
    redirectPatience = kFirstRedirectPatience;
    welcomeAt = progressAt = now;
    pingAtOnce = true;
    takesBefore = published.take;
    edits.setCosts(message.lanes, message.costs);
    if (recorder != nullptr)
        recorder->setEngine({versionOf(message.server),
                             message.protocol,
                             message.checkpoint,
                             message.checkpointHash,
                             message.backend,
                             {},
                             {},
                             message.lanes});
    resumeAll();
}

void TrackClient::on(const Configured& message, std::int64_t)
{
    confirmedRevision = std::max(confirmedRevision, message.revision);
    isConfigurationRefused = false;
}

void TrackClient::on(const Window& message, std::int64_t now)
{
    framesReceived += message.count;
    EpochRecord* record = find(message.epoch);
    if (record == nullptr)
        return;
    record->answeredAt = now;
    if (record->isLoop())
        return takeLoopWindow(*record, message, now);
    const std::int64_t end =
        std::min(message.frame + message.count, record->keptEnd()); // nobody waits for what is not fed
    if (message.frame > record->wanted || end <= record->wanted)
        return; // ahead of what is expected (the engine sends again), or a repeat
    const auto length = static_cast<std::size_t>(grid.length);
    const std::size_t channelStride = static_cast<std::size_t>(message.count) * length;
    for (; record->wanted < end; ++record->wanted)
    {
        WetFrame frame{record->id, record->wanted, std::vector<float>(2 * length)};
        const float* left = message.audio.data() + static_cast<std::size_t>(record->wanted - message.frame) * length;
        std::copy_n(left, length, frame.audio.begin());
        std::copy_n(left + channelStride, length, frame.audio.begin() + static_cast<std::ptrdiff_t>(length));
        if (recorder != nullptr && record->kind == EpochKind::commit)
            recordInput(*record, frame.frame);
        if (recorder != nullptr)
            recorder->deliver(frame.epoch, frame.frame, frame.audio.data(), frame.audio.data() + length);
        auto place = wetFrames.end();
        while (place != wetFrames.begin() && std::prev(place)->epoch > frame.epoch)
            --place;
        wetFrames.insert(place, std::move(frame));
        ++published.windows;
    }
    progressAt = now;
}

void TrackClient::on(const Progress& message, std::int64_t now)
{
    progressAt = now;
    if (EpochRecord* record = find(message.epoch))
        record->answeredAt = now;
}

void TrackClient::on(const Pong& message, std::int64_t now)
{
    if (published.state != LinkState::ready)
        return;
    published.ticks = message.ticks;
    published.generations = message.generations;
    if (message.number == pingNumber && message.number != 0)
        published.roundTripNanoseconds = now - pingAt;
    for (EpochRecord& record : records)
    {
        const auto known = std::find(message.epochs.begin(), message.epochs.end(), record.id);
        if (known != message.epochs.end())
            follow(record, message.expected[static_cast<std::size_t>(known - message.epochs.begin())], now);
        else if (isMissing(record, now)) // its begin was lost: all epochs are begun again
        {
            resumeAll();
            return sayHello(now);
        }
    }
    dropStrays(message, now);
}

/// A lost `drop` is repeated: else the engine would keep the epoch, and its windows, for as long as the track lives.
void TrackClient::dropStrays(const Pong& message, std::int64_t now)
{
    std::map<std::int64_t, std::int64_t> named;
    for (const std::int64_t epoch : message.epochs)
        if (find(epoch) == nullptr)
        {
            const auto known = strays.find(epoch);
            named[epoch] = known != strays.end() ? known->second : now;
        }
    strays = std::move(named);
    for (auto& [epoch, since] : strays)
        if (now - since > kResendAfter)
        {
            outbox.emplace_back(Drop{epoch});
            since = now;
        }
}

/// What the engine has of an epoch: it gives credit for more, or shows that something was lost on the way.
void TrackClient::follow(EpochRecord& record, std::int64_t expected, std::int64_t now)
{
    record.missingSince.reset();
    const bool lags = expected < record.nextToSend;
    if (!lags || record.lastExpected != expected || !record.expectedMovedAt)
    {
        record.lastExpected = expected;
        record.expectedMovedAt = now;
    }
    if (lags && (record.hasGap || now - *record.expectedMovedAt > kResendAfter))
    {
        record.rewind(expected);
        record.expectedMovedAt = now;
    }
    record.hasGap = false;
}

/// An epoch of which a pong does not tell. What has just begun may have crossed it.
bool TrackClient::isMissing(EpochRecord& record, std::int64_t now) const
{
    if (!record.hasBegun || record.isLost)
        return false;
    if (!record.missingSince)
        record.missingSince = now;
    return now - *record.missingSince > kResendAfter;
}

/// Another engine has room for the track. Only the one at the user's address may say so.
void TrackClient::on(const Redirect& message, std::int64_t now)
{
    if (published.state != LinkState::waiting)
        return;
    if (elsewhere)
        return lose(now);
    elsewhere = message;
    published.state = LinkState::lost; // the next tick says hello: what to ask for may differ there
    retryAt = now;
}

/// It says so in order to be left at once; nothing is lost.
void TrackClient::on(const Closing&, std::int64_t now)
{
    if (published.state == LinkState::idle || published.state == LinkState::lost)
        return;
    backOff = kFirstBackOff;
    lose(now);
}

void TrackClient::disconnect(std::int64_t now)
{
    if (elsewhere)
        on(Closing{}, now);
    else if (published.state == LinkState::waiting)
        openAnew(now); // whoever has said hello to it may not be answered
}

void TrackClient::resumeAudio(std::int64_t now)
{
    if (published.state != LinkState::ready)
        return;
    const auto isUnheard = [](const EpochRecord& r) { return r.hasBegun && !r.expectedMovedAt; };
    if (std::any_of(records.begin(), records.end(), isUnheard))
        return openAnew(now); // its begin may be lost; the engine has made little of it
    for (EpochRecord& record : records)
    {
        record.hasGap = true;
        record.endSent = false;
    }
    configureAt = now - kResendAfter;
    edits.sendAgain();
    outbox.emplace_back(Resend{});
    pingAtOnce = true;
}

void TrackClient::on(const Error& message, std::int64_t now)
{
    if (message.code == error::unknownTrack)
    {
        if (published.state == LinkState::ready) // else it answers what was sent before this hello
            openAnew(now);
        return;
    }
    if (message.code == error::feedGap)
    {
        if (EpochRecord* record = find(message.epoch))
            record->hasGap = true;
        pingAtOnce = true;
        return;
    }
    if (message.code == error::epoch)
    {
        if (EpochRecord* record = find(message.epoch))
            refuseEpoch(*record, now);
        return;
    }
    if (message.code == error::reference && noteWanted(message.message))
        return;
    reportError(message.code, message.message);
    if (EpochRecord* record = find(message.epoch); record != nullptr && isFatalToEpoch(message.code))
        record->isLost = true;
    if (message.code == error::lora && published.state == LinkState::ready)
        isConfigurationRefused = true;
    if (published.state == LinkState::waiting && refusesHello(message))
    {
        published.state = LinkState::refused;
        // A track that had a place may find another: the engine that has ended comes back.
        refusesTrack = isFinal(message.code) && !(message.code == error::busy && hasEngine);
        retryAt = now + kRefusalWait;
    }
}

/// The engine does not know an epoch that it should know: the track opens anew and resumes all of them.
void TrackClient::refuseEpoch(EpochRecord& record, std::int64_t now)
{
    if (published.state != LinkState::ready || now - welcomeAt < kSettling)
        return;
    if (++record.refusals > kMaxRefusals)
    {
        return reportError(error::epoch, "the engine refuses this run: stop and play again");
    }
    resumeAll();
    sayHello(now);
}
} // namespace demon
