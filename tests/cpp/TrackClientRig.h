// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "link/TrackClient.h"

/// The link's state machine with a clock and an engine made of plain values.
namespace track_client_rig
{
using namespace demon;

inline constexpr std::int64_t kMs = 1'000'000;
inline constexpr int kRate = 8000;
inline constexpr std::size_t kFrame = 320;

struct Rig
{
    TrackClient client;
    std::int64_t now = 1000 * kMs;
    OutputCursor::Place output;
    std::vector<Message> sent;

    explicit Rig(RenderRecorder* renders = nullptr) : client("test", renders)
    {
        client.open(kRate, 10, false);
        advance(0);
    }
    /// Lets time pass in steps of a millisecond, and keeps what is sent.
    void advance(std::int64_t milliseconds)
    {
        for (std::int64_t i = 0; i <= milliseconds; ++i, now += kMs)
        {
            client.tick(now, output);
            reconnects += client.takeReconnect() ? 1 : 0;
            for (Message& message : client.takeOutbox())
                sent.push_back(std::move(message));
        }
    }
    void hear(const Message& message)
    {
        client.receive(message, now);
        advance(0);
    }
    void tell(std::int32_t epoch, std::int64_t frame) ///< what sounds now
    {
        output = {epoch, frame};
        advance(0);
    }
    void welcome(std::int64_t retain = 20, std::int64_t credit = 250, const std::string& packing = "none")
    {
        Welcome message;
        message.ticket = std::string(kTicketDigits, 'a');
        message.credit = credit;
        message.packing = packing;
        message.retain = retain;
        hear(message);
    }
    /// What the engine has of an epoch, in answer to the last ping.
    void pong(std::int64_t epoch, std::int64_t expected) { hear(Pong{count<Ping>(), {epoch}, {expected}, 0.0, 0.0}); }
    void begin(std::int32_t epoch, bool offline = true)
    {
        FeedItem item;
        item.kind = FeedItem::Kind::begin;
        item.epoch = epoch;
        item.offline = offline;
        client.accept(item);
    }
    void end(std::int32_t epoch, std::int64_t frame)
    {
        FeedItem item;
        item.kind = FeedItem::Kind::end;
        item.epoch = epoch;
        item.frame = frame;
        client.accept(item);
    }
    void feed(std::int32_t epoch, std::int64_t from, std::int64_t count)
    {
        FeedItem item;
        item.epoch = epoch;
        item.audio.assign(2 * kFrame, 0.5f);
        for (item.frame = from; item.frame < from + count; ++item.frame)
            client.accept(item);
        advance(0);
    }
    void window(std::int64_t epoch, std::int64_t frame, std::int64_t count)
    {
        hear(Window{epoch, 0, frame, count, "none",
                    std::vector<float>(2 * kFrame * static_cast<std::size_t>(count), 1.0f)});
    }
    /// The frame after the last one that was fed.
    std::int64_t fedTo() const
    {
        const std::vector<Feed> feeds = all<Feed>();
        return feeds.empty() ? 0 : feeds.back().frame + feeds.back().count;
    }
    template <class M> std::vector<M> all() const
    {
        std::vector<M> found;
        for (const Message& message : sent)
            if (const M* m = std::get_if<M>(&message))
                found.push_back(*m);
        return found;
    }
    template <class M> int count() const { return static_cast<int>(all<M>().size()); }

    std::vector<std::pair<std::int32_t, std::int64_t>> takeWindows()
    {
        std::vector<std::pair<std::int32_t, std::int64_t>> places;
        while (const WetFrame* next = client.nextWindow())
        {
            places.emplace_back(next->epoch, next->frame);
            client.popWindow();
        }
        return places;
    }

    int reconnects = 0;
};
using Places = std::vector<std::pair<std::int32_t, std::int64_t>>;
} // namespace track_client_rig
