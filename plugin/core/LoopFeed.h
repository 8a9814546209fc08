// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "LaneTable.h"
#include "StreamItems.h"

namespace demon
{
/// What a loop has to say to the link thread: captured frames, edits of lanes, and words on clips and commits, which
/// wait here while the ring is full and never get lost.
///
/// Threads: take belongs to the link thread, everything else to the audio thread. Construction allocates; with a
/// NeverWait nothing else does, and nothing waits.
class LoopFeed
{
public:
    static constexpr std::size_t kRingFrames = 64;
    static constexpr std::size_t kRingEdits = 1024;

    explicit LoopFeed(FrameGrid grid) : frames(kRingFrames, silentItem<FeedItem>(grid)), edits(kRingEdits) {}

    FeedRing frames;
    EditRing edits;

    /// The epoch is not wanted any more.
    void release(std::int32_t epoch) noexcept { words[wordCount++] = {FeedItem::Kind::release, epoch, 0}; }

    /// The capture ended before `frame`.
    void end(std::int32_t epoch, std::int64_t frame) noexcept
    {
        words[wordCount++] = {FeedItem::Kind::end, epoch, frame};
    }

    /// False while some are left: then nothing may happen that leads to more of them.
    template <class Waiter> bool sendWords(Waiter& waiter)
    {
        std::size_t sent = 0;
        while (sent < wordCount && push([&](FeedItem& item) { fill(item, words[sent]); }, waiter))
            ++sent;
        std::move(words.begin() + static_cast<std::ptrdiff_t>(sent),
                  words.begin() + static_cast<std::ptrdiff_t>(wordCount), words.begin());
        wordCount -= sent;
        return wordCount == 0;
    }

    /// For LaneMemory: edits of the clip of `epoch`.
    auto senderFor(std::int32_t epoch) noexcept
    {
        return [this, epoch](LaneEdit edit)
        {
            edit.epoch = epoch;
            const bool hasRoom = edits.tryPush([&](LaneEdit& slot) { slot = edit; });
            editsPushed += hasRoom ? 1u : 0u;
            return hasRoom;
        };
    }

    /// The clip `of` is to be made as it is after exactly the edits so far. False when it had no room.
    template <class Waiter> bool commit(std::int32_t epoch, std::int32_t of, Waiter& waiter)
    {
        return push(
            [&](FeedItem& item)
            {
                item.kind = FeedItem::Kind::commit;
                item.epoch = epoch;
                item.of = of;
                item.edits = editsPushed;
            },
            waiter);
    }

    /// Link thread: calls onItem(FeedItem&) and onEdit(const LaneEdit&) for what has come, in the order in which it
    /// counts: an edit comes after the frames of its clip, and a commit after exactly the edits that belong to it. True
    /// when there was something.
    template <class OnItem, class OnEdit> bool take(OnItem&& onItem, OnEdit&& onEdit)
    {
        const std::uint64_t editsThere = editsTaken + edits.size(); // what was pushed before these is in the ring
        bool any = false;
        const auto takeEdits = [&](std::uint64_t upTo)
        {
            while (editsTaken < upTo && edits.tryPop(onEdit))
            {
                ++editsTaken;
                any = true;
            }
        };
        while (FeedItem* item = frames.front())
        {
            if (item->kind == FeedItem::Kind::commit)
                takeEdits(item->edits);
            onItem(*item);
            frames.pop();
            any = true;
        }
        takeEdits(editsThere);
        return any;
    }

private:
    static constexpr std::size_t kWords = 16;

    struct Word
    {
        FeedItem::Kind kind = FeedItem::Kind::release;
        std::int32_t epoch = 0;
        std::int64_t frame = 0;
    };

    static void fill(FeedItem& item, const Word& word) noexcept
    {
        item.kind = word.kind;
        item.epoch = word.epoch;
        item.frame = word.frame;
    }

    template <class Fill, class Waiter> bool push(const Fill& fillItem, Waiter& waiter)
    {
        while (!frames.tryPush(fillItem))
            if (!waiter.forRoom())
                return false;
        waiter.arrived();
        return true;
    }

    std::array<Word, kWords> words{};
    std::size_t wordCount = 0;
    std::uint64_t editsPushed = 0;
    std::uint64_t editsTaken = 0; ///< link thread
};
} // namespace demon
