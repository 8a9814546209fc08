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
} // namespace

TrackClient::TrackClient(std::string clientName) : name(std::move(clientName)), backOff(kFirstBackOff) {}

void TrackClient::open(int rate, int latencyFrames)
{
    sampleRate = rate;
    latency = latencyFrames;
    grid = FrameGrid::forRate(rate);
    records.clear();
    wetFrames.clear();
    published.state = LinkState::lost;
    reconnect();
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
    retryAt = 0;
    backOff = kFirstBackOff;
}

void TrackClient::fail(std::string code, std::string text, std::int64_t now)
{
    reportError(std::move(code), std::move(text));
    if (published.state != LinkState::idle)
        lose(now);
}

void TrackClient::accept(const FeedItem& item)
{
    switch (item.kind)
    {
    case FeedItem::Kind::begin:
        if (!records.empty() && !records.back().end)
            records.back().end = records.back().keptEnd();
        records.emplace_back(item, grid);
        break;
    case FeedItem::Kind::frame:
        if (EpochRecord* record = find(item.epoch))
            published.framesGivenUp += record->append(item) ? 1 : 0;
        break;
    case FeedItem::Kind::end:
        if (EpochRecord* record = find(item.epoch))
            record->end = item.frame;
        break;
    case FeedItem::Kind::drop:
        dropThrough(item.epoch);
        break;
    case FeedItem::Kind::release: // a stream has neither
    case FeedItem::Kind::commit:
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

std::vector<Message> TrackClient::takeOutbox() { return std::exchange(outbox, {}); }

WetFrame* TrackClient::nextWindow()
{
    if (wetFrames.empty())
        return nullptr;
    const auto open =
        std::find_if(records.begin(), records.end(), [](const EpochRecord& r) { return !r.isDelivered(); });
    const bool isNext = open == records.end() || wetFrames.front().epoch <= open->id;
    return isNext ? &wetFrames.front() : nullptr;
}

std::int32_t TrackClient::hopelessEpoch() const
{
    if (published.state == LinkState::refused && refusesTrack)
        return EngineSigns::kEveryEpoch;
    return !records.empty() && records.front().isLost ? records.front().id : 0;
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
    followOutput(output);
    retireEpochs(output);
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
        if (now >= retryAt)
            sayHello(now);
        return;
    case LinkState::waiting:
        if (now - helloAt > kSilence)
            lose(now);
        return;
    case LinkState::ready:
        if (now - heardAt > kSilence)
            return lose(now);
        sendConfiguration(now);
        sendEpochs();
        sendPing(now);
    }
}

void TrackClient::sayHello(std::int64_t now)
{
    outbox.clear();
    outbox.emplace_back(Hello{kProtocolVersion, name, sampleRate, latency, wireLaneIds(), config});
    sentConfig = config;
    confirmedRevision = revision;
    published.state = LinkState::waiting;
    helloAt = now;
}

void TrackClient::reopen(std::int64_t now)
{
    reconnectDue = true;
    sayHello(now);
}

void TrackClient::lose(std::int64_t now)
{
    published.state = LinkState::lost;
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
    configureAt = now;
    outbox.emplace_back(Configure{++revision, config});
}

/// A live host does not wait: what has sounded already is not wanted any more, and pings tell the engine so.
void TrackClient::followOutput(OutputCursor::Place output)
{
    EpochRecord* record = find(output.epoch);
    if (record == nullptr || record->offline)
        return;
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
    record.isLost = false;
    published.framesGivenUp += std::max<std::int64_t>(0, first - record.wanted);
    record.wanted = std::max(record.wanted, first);
    outbox.emplace_back(record.makeBegin(published.engine.retain));
    return true;
}

void TrackClient::sendEpochs()
{
    for (EpochRecord& record : records)
    {
        if (!record.hasBegun && !beginEpoch(record))
            continue;
        while (record.hasFeed())
            outbox.emplace_back(record.takeFeed());
        if (record.end && !record.endSent)
        {
            outbox.emplace_back(End{record.id, *record.end});
            record.endSent = true;
        }
        record.forgetBefore(record.wanted - published.engine.retain);
    }
}

void TrackClient::sendPing(std::int64_t now)
{
    if (now - pingAt < kPingInterval && !pingAtOnce)
        return;
    pingAtOnce = false;
    pingAt = now;
    const auto oldest = std::find_if(records.begin(), records.end(), [](const EpochRecord& r) { return r.hasBegun; });
    outbox.emplace_back(oldest == records.end() ? Ping{} : Ping{oldest->id, oldest->wanted});
}

void TrackClient::retireEpochs(OutputCursor::Place output)
{
    while (!records.empty() && (records.front().isDelivered() || records.front().id < output.epoch))
    {
        if (records.front().hasBegun)
            outbox.emplace_back(Drop{records.front().id}); // releases the windows that the engine still keeps
        records.pop_front();
    }
    while (!wetFrames.empty() && wetFrames.front().epoch < output.epoch)
        wetFrames.pop_front();
}

void TrackClient::dropThrough(std::int32_t epoch)
{
    for (; !records.empty() && records.front().id <= epoch; records.pop_front())
        if (records.front().hasBegun)
            outbox.emplace_back(Drop{records.front().id});
    while (!wetFrames.empty() && wetFrames.front().epoch <= epoch)
        wetFrames.pop_front();
}
} // namespace demon
