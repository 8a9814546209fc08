// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TrackClient.h"

#include <algorithm>
#include <utility>

#include "LinkTimes.h"

namespace demon
{
namespace
{
constexpr std::int64_t kAssumedRetain = 400; // frames kept for a live epoch, until the engine has said what it needs

/// Frames of windows that may be on their way. A loop's are worth less the longer they take: two windows.
std::int64_t windowCredit(bool isLoop) { return isLoop ? 50 : 250; }
} // namespace

TrackClient::TrackClient(std::string clientName, RenderRecorder* renders)
    : name(std::move(clientName)), recorder(renders), backOff(kFirstBackOff)
{
}

void TrackClient::open(int rate, int latencyFrames, bool isLoop)
{
    sampleRate = rate;
    latency = latencyFrames;
    isLoopTrack = isLoop;
    grid = FrameGrid::forRate(rate);
    forget();
    published.state = LinkState::lost;
    reconnect();
}

void TrackClient::close()
{
    forget();
    outbox.clear();
    published.state = LinkState::idle;
}

/// Everything that belongs to the player.
void TrackClient::forget()
{
    records.clear();
    if (recorder != nullptr)
        recorder->closeAll();
    wetFrames.clear();
    takes.clear();
    loop = {};
    edits.clear();
    published.take = 0;
}

void TrackClient::reconnect()
{
    if (published.state == LinkState::idle)
        return;
    outbox.clear();
    resumeAll();
    for (EpochRecord& record : records)
        record.isLost = false;         // another engine may need less
    published.state = LinkState::lost; // the next tick says hello
    elsewhere.reset();
    retryAt = 0;
    backOff = kFirstBackOff;
}

void TrackClient::fail(std::string code, std::string text, std::int64_t now)
{
    reportError(std::move(code), std::move(text));
    if (published.state != LinkState::idle)
        lose(now);
}

void TrackClient::shutOut(std::string text, std::int64_t now)
{
    if (published.state == LinkState::idle)
        return;
    reportError(error::keys, std::move(text));
    outbox.clear();
    resumeAll();
    published.state = LinkState::refused;
    isShutOut = true;
    refusesTrack = !elsewhere; // an engine that one was sent to may hear later of a key that is new
    retryAt = now + kRefusalWait;
}

void TrackClient::accept(const FeedItem& item)
{
    switch (item.kind)
    {
    case FeedItem::Kind::begin:
        if (!records.empty() && !records.back().end)
            records.back().end = records.back().keptEnd();
        records.emplace_back(item, grid);
        if (recorder != nullptr && !item.loop)
            recorder->begin(item.epoch, sampleRate, item.start, item.offline);
        break;
    case FeedItem::Kind::frame:
        if (EpochRecord* record = find(item.epoch))
        {
            published.framesGivenUp += record->append(item) ? 1 : 0;
            if (recorder != nullptr && !record->isLoop())
                recorder->feed(item.epoch, item.frame, item.audio, item.lanes);
        }
        break;
    case FeedItem::Kind::end:
        if (EpochRecord* record = find(item.epoch))
        {
            record->end = item.frame;
            if (recorder != nullptr && !record->isLoop())
                recorder->end(item.epoch, item.frame);
            if (record->isLoop() && record->keptEnd() > record->firstFrame)
            {
                record->complete(loop.lanes);
                edits.clear(); // of the clip before it
                loop.epoch = record->id;
                loop.source = record->source();
            }
        }
        break;
    case FeedItem::Kind::drop:
        dropThrough(item.epoch);
        break;
    case FeedItem::Kind::release:
        release(item.epoch);
        break;
    case FeedItem::Kind::commit:
        beginCommit(item);
        break;
    }
}

void TrackClient::configure(const Config& newest) { config = newest; }

void TrackClient::reportError(std::string code, std::string text)
{
    published.errorCode = std::move(code);
    published.errorText = std::move(text);
}

void TrackClient::acknowledgeError()
{
    published.errorCode.clear();
    published.errorText.clear();
}

bool TrackClient::takeReconnect() { return std::exchange(reconnectDue, false); }

std::string TrackClient::takeTicket() { return std::exchange(ticketDue, {}); }

std::vector<Message> TrackClient::takeOutbox() { return std::exchange(outbox, {}); }

WetFrame* TrackClient::nextWindow()
{
    if (wetFrames.empty())
        return takes.empty() ? nullptr : &takes.front();
    const auto open = std::find_if(records.begin(), records.end(),
                                   [](const EpochRecord& r) { return !r.isLoop() && !r.isDelivered(); });
    const bool isNext = open == records.end() || wetFrames.front().epoch <= open->id;
    return isNext ? &wetFrames.front() : nullptr;
}

void TrackClient::popWindow() { wetFrames.empty() ? takes.pop_front() : wetFrames.pop_front(); }

std::int32_t TrackClient::hopelessEpoch() const
{
    if ((published.state == LinkState::refused && refusesTrack) || isConfigurationRefused)
        return EngineSigns::kEveryEpoch;
    const auto lost = std::find_if(records.begin(), records.end(), [](const EpochRecord& r) { return r.isLost; });
    return lost == records.end() ? 0 : lost->id;
}

EpochRecord* TrackClient::find(std::int64_t epoch)
{
    for (EpochRecord& record : records)
        if (record.id == epoch)
            return &record;
    return nullptr;
}

void TrackClient::tick(std::int64_t now, OutputCursor::Place output)
{
    lastTick = now;
    followOutput(output);
    retireEpochs(output);
    const bool isRunning = !records.empty() && records.back().kind == EpochKind::stream;
    published.readyTo = isRunning ? records.back().wanted : 0;
    published.fedTo = isRunning ? records.back().keptEnd() : 0;
    if (published.state != LinkState::ready)
        forgetUnheard();
    switch (published.state)
    {
    case LinkState::idle:
        return;
    case LinkState::lost:
        if (now >= retryAt)
            reopen(now);
        return;
    case LinkState::refused:
        if (now < retryAt)
            return;
        if (!elsewhere && !isShutOut)
            return sayHello(now);
        elsewhere.reset(); // another engine may take it: only the first one knows
        return reopen(now);
    case LinkState::waiting:
        if (now - helloAt > (elsewhere ? redirectPatience : kSilence))
        {
            redirectPatience = elsewhere ? std::min(2 * redirectPatience, kSilence) : redirectPatience;
            lose(now);
        }
        return;
    case LinkState::ready:
        if (now - heardAt > kSilence)
            return lose(now);
        sendReferences();
        sendConfiguration(now);
        sendEpochs(now);
        sendEdits(now);
        sendPing(now);
    }
}

void TrackClient::sayHello(std::int64_t now)
{
    outbox.clear();
    strays.clear();
    outbox.emplace_back(Hello{kProtocolVersion, name, sampleRate, isLoopTrack ? "loop" : "stream",
                              isLoopTrack ? 0 : latency, windowCredit(isLoopTrack), wantedPacking, wireLaneIds(),
                              config});
    if (recorder != nullptr)
        recorder->setConfig(config);
    wantedReferences.clear();
    isConfigurationRefused = false;
    sentConfig = config;
    confirmedRevision = revision;
    isShutOut = false;
    published.state = LinkState::waiting;
    helloAt = now;
}

/// By the next tick, but no sooner after the last time than a lost engine is tried again.
void TrackClient::openAnew(std::int64_t now)
{
    resumeAll();
    elsewhere.reset(); // where the track came from knows whether it still can go there
    published.state = LinkState::lost;
    retryAt = std::max(now, helloAt + kFirstBackOff);
}

void TrackClient::reopen(std::int64_t now)
{
    reconnectDue = true;
    sayHello(now);
}

/// Keys are not what keeps the two ends apart any more.
void TrackClient::forgetKeysError()
{
    if (published.errorCode == error::keys)
        acknowledgeError();
}

void TrackClient::lose(std::int64_t now)
{
    forgetKeysError();
    published.state = LinkState::lost;
    elsewhere.reset(); // whoever sent the track there knows whether it still can go there
    retryAt = now + backOff;
    backOff = std::min(2 * backOff, kLastBackOff);
    resumeAll();
}

void TrackClient::resumeAll()
{
    for (EpochRecord& record : records)
        record.hasBegun = false;
}

void TrackClient::sendConfiguration(std::int64_t now)
{
    const bool isUnconfirmed = confirmedRevision != revision && now - configureAt > kResendAfter;
    if (config == sentConfig && !isUnconfirmed)
        return;
    sentConfig = config;
    if (recorder != nullptr)
        recorder->setConfig(config);
    configureAt = now;
    outbox.emplace_back(Configure{++revision, config});
}

/// A live host does not wait: what has sounded already is not wanted any more, and pings tell the engine so.
void TrackClient::followOutput(OutputCursor::Place output)
{
    EpochRecord* record = find(output.epoch);
    if (record == nullptr || record->offline)
        return;
    if (record->isLoop())
    {
        record->wanted = std::clamp(output.frame, record->firstFrame, record->keptEnd());
        return;
    }
    record->wanted = std::max(record->wanted, std::min(output.frame, record->keptEnd()));
    while (!wetFrames.empty() && wetFrames.front().epoch == record->id && wetFrames.front().frame < output.frame)
        wetFrames.pop_front();
}

/// Without an engine there is nobody to feed, and of a live epoch only what is about to sound will be asked for.
void TrackClient::forgetUnheard()
{
    for (EpochRecord& record : records)
        if (!record.offline)
            record.forgetBefore(hasEngine ? record.wanted - published.engine.retain
                                          : record.keptEnd() - latency - kAssumedRetain);
}

/// False when a bounce's epoch cannot go on: the engine needs frames that were given up. A live one leaves them out.
bool TrackClient::beginEpoch(EpochRecord& record)
{
    const std::int64_t first = record.firstResumable(published.engine.retain);
    if (first > record.wanted && record.offline)
    {
        if (!record.isLost)
            reportError(error::limit, "the engine has lost this run and needs more of it than was kept: bounce again");
        record.isLost = true;
        return false;
    }
    if (record.id == loop.epoch)
        edits.clear(); // the lanes are fed as they are now
    record.isLost = false;
    published.framesGivenUp += std::max<std::int64_t>(0, first - record.wanted);
    record.wanted = std::max(record.wanted, first);
    outbox.emplace_back(record.makeBegin(published.engine.retain));
    return true;
}

void TrackClient::sendEpochs(std::int64_t now)
{
    for (EpochRecord& record : records)
    {
        if (record.isLost || (!record.hasBegun && !beginEpoch(record)))
            continue;
        while (record.maySend(published.engine.credit))
        {
            Feed feed = record.takeFeed(published.engine.credit);
            feed.packing = published.engine.packing;
            outbox.emplace_back(std::move(feed));
        }
        if (record.end && !record.hasFeed() && (!record.endSent || record.isEndUnheard(now, kResendAfter)))
        {
            outbox.emplace_back(End{record.id, *record.end});
            record.endSent = true;
            record.endSentAt = now;
        }
        record.forgetBefore(record.wanted - published.engine.retain);
    }
}

/// The oldest epoch whose windows are waited for; else where the loop plays, more often: the engine decodes from there.
void TrackClient::sendPing(std::int64_t now)
{
    const auto open = [](bool isLoop)
    { return [isLoop](const EpochRecord& r) { return r.hasBegun && r.isLoop() == isLoop; }; };
    auto named = std::find_if(records.begin(), records.end(), open(false));
    const bool isPlayhead = named == records.end();
    if (isPlayhead)
        named = std::find_if(records.begin(), records.end(), open(true));
    const std::int64_t interval = isPlayhead && named != records.end() ? kPlayheadInterval : kPingInterval;
    const bool owesCredit = framesReceived - framesConfirmed >= windowCredit(isLoopTrack) / 4;
    if (now - pingAt < interval && !pingAtOnce && !owesCredit)
        return;
    pingAtOnce = false;
    pingAt = now;
    framesConfirmed = framesReceived;
    pingNumber = pingNumber < kMaxEpoch ? pingNumber + 1 : 1;
    Ping ping{pingNumber, 0, 0, framesReceived};
    if (named != records.end())
    {
        ping.epoch = named->id;
        ping.wanted = named->wanted;
    }
    outbox.emplace_back(ping);
}

void TrackClient::retireEpochs(OutputCursor::Place output)
{
    for (auto record = records.begin(); record != records.end();)
    {
        const bool isPast = record->kind == EpochKind::stream && record->id < output.epoch;
        if (!record->isDelivered() && !isPast)
        {
            ++record;
            continue;
        }
        if (record->hasBegun)
            outbox.emplace_back(Drop{record->id}); // releases the windows that the engine still keeps
        stopRecording(*record);
        record = records.erase(record);
    }
    while (!wetFrames.empty() && !isLoopTrack && wetFrames.front().epoch < output.epoch)
        wetFrames.pop_front();
}

void TrackClient::dropThrough(std::int32_t epoch)
{
    while (!records.empty() && records.front().id <= epoch)
        release(records.front().id);
}
} // namespace demon
