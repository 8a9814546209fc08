// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TrackClient.h"

#include <algorithm>
#include <utility>

#include "LinkTimes.h"

namespace demon
{
TrackClient::TrackClient(std::string clientName) : name(std::move(clientName)), backOff(kFirstBackOff) {}

void TrackClient::open(int rate, int latencyFrames)
{
    sampleRate = rate;
    latency = latencyFrames;
    grid = FrameGrid::forRate(rate);
    records.clear();
    wetFrames.clear();
    outbox.clear();
    published.state = LinkState::lost; // the next tick says hello
    retryAt = 0;
    backOff = kFirstBackOff;
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

bool TrackClient::takeReconnect() { return std::exchange(reconnect, false); }

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

EpochRecord* TrackClient::find(std::int64_t epoch)
{
    for (EpochRecord& record : records)
        if (record.id == epoch)
            return &record;
    return nullptr;
}

void TrackClient::tick(std::int64_t now, OutputCursor::Place output)
{
    retireEpochs(output);
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
        sendEpochs(output);
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
    reconnect = true;
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

void TrackClient::sendEpochs(OutputCursor::Place output)
{
    for (EpochRecord& record : records)
    {
        // A live host does not wait: what has sounded already is not asked for again.
        const bool isLive = !record.offline && output.epoch == record.id;
        const std::int64_t needed = isLive ? std::max(record.wanted, output.frame) : record.wanted;
        if (!record.hasBegun)
        {
            outbox.emplace_back(record.makeBegin(needed, published.engine.retain));
            published.framesGivenUp += std::max<std::int64_t>(
                0, record.firstKept() - std::max(record.firstFrame, needed - published.engine.retain));
        }
        while (record.hasFeed())
            outbox.emplace_back(record.takeFeed());
        if (record.end && !record.endSent)
        {
            outbox.emplace_back(End{record.id, *record.end});
            record.endSent = true;
        }
        record.forgetBefore(needed - published.engine.retain);
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
    if (published.state != LinkState::ready) // nobody to tell, and what a live host has played is not needed any more
        for (EpochRecord& record : records)
            if (!record.offline && output.epoch == record.id && published.engine.retain > 0)
                record.forgetBefore(std::max(record.wanted, output.frame) - published.engine.retain);
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
