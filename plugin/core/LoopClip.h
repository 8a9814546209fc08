// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ClipCache.h"
#include "Controls.h"
#include "LaneMemory.h"
#include "demon/timebase.h"

namespace demon
{
/// What a loop plays: where a clip lies on the timeline, in whole frames, its lanes and its finished audio.
///
/// Construction allocates. From ClipExchange::offer on everything but `purpose` belongs to the audio thread, until it
/// calls leave().
class LoopClip
{
public:
    enum class Purpose
    {
        nothing, ///< to offer it unloads the clip
        capture, ///< the audio thread captures into it
        given    ///< its source goes to the engine by another way
    };

    /// For Loop::offer, to play nothing.
    static std::shared_ptr<LoopClip> nothing() { return make(Purpose::nothing, LaneMemory(0), 0); }

    /// To capture at most `mostFrames` into.
    static std::shared_ptr<LoopClip> toCapture(std::int64_t mostFrames)
    {
        return make(Purpose::capture, LaneMemory(mostFrames), mostFrames);
    }

    /// A clip whose source is fed by whoever offers it, as epoch `epoch` (of EpochNumbers) and after the offer. It has
    /// the frames of `lanes`, at least one.
    static std::shared_ptr<LoopClip> given(std::int32_t epoch, LaneTable lanes)
    {
        const std::int64_t frames = lanes.frames();
        auto clip = make(Purpose::given, LaneMemory(std::move(lanes)), frames);
        clip->complete(epoch);
        return clip;
    }

    const Purpose purpose;
    LaneMemory memory;
    ClipCache live;   ///< takes
    ClipCache bounce; ///< the commit's frames; each has the commit's epoch as its take

    std::int32_t epoch = 0; ///< of its takes; 0 until the capture begins

    bool isComplete() const noexcept { return hasAllFrames; }

    /// It has all frames of its memory, one or more, and may be played.
    void complete(std::int32_t itsEpoch) noexcept
    {
        epoch = itsEpoch;
        const LaneTable& table = memory.table();
        live.place(table.firstFrame(), table.frames());
        bounce.place(table.firstFrame(), table.frames());
        hasAllFrames = table.frames() > 0;
    }

    /// Which of its frames sounds at `frame` of the timeline, if any.
    std::optional<std::int64_t> frameAt(std::int64_t frame, OutsidePolicy outside) const noexcept
    {
        const std::int64_t first = memory.table().firstFrame(), count = memory.table().frames();
        if (!hasAllFrames)
            return std::nullopt;
        if (frame >= first && frame < first + count)
            return frame;
        if (outside == OutsidePolicy::dry)
            return std::nullopt;
        return frame - floorDivide(frame - first, count) * count;
    }

    enum class Request
    {
        none,
        finish,
        cancel
    };
    void ask(Request wanted) noexcept { request.store(wanted, std::memory_order_release); } ///< any thread
    Request takeRequest() noexcept { return request.exchange(Request::none, std::memory_order_acq_rel); }

    /// Audio thread: it is not used any more.
    void leave() noexcept { hasLeft.store(true, std::memory_order_release); }
    bool isLeft() const noexcept { return hasLeft.load(std::memory_order_acquire); } ///< any thread

private:
    LoopClip(Purpose itsPurpose, LaneMemory itsMemory, std::int64_t mostFrames)
        : purpose(itsPurpose), memory(std::move(itsMemory)), live(mostFrames), bounce(mostFrames)
    {
    }

    static std::shared_ptr<LoopClip> make(Purpose itsPurpose, LaneMemory itsMemory, std::int64_t mostFrames)
    {
        return std::shared_ptr<LoopClip>(new LoopClip(itsPurpose, std::move(itsMemory), mostFrames));
    }

    bool hasAllFrames = false;
    std::atomic<Request> request{Request::none};
    std::atomic<bool> hasLeft{false};
};

/// Hands clips to the audio thread, and keeps each until that thread has left it, so that it never frees one.
///
/// Threads: offer, request and tidy belong to the owner, one call at a time; take to the audio thread and is wait-free.
class ClipExchange
{
public:
    /// The audio thread takes `next` at its next block. Returns the clip that it displaces before it was taken, or
    /// null.
    std::shared_ptr<LoopClip> offer(std::shared_ptr<LoopClip> next)
    {
        tidy();
        std::shared_ptr<LoopClip> withdrawn = remove(incoming.exchange(nullptr, std::memory_order_acq_rel));
        kept.push_back(std::move(next));
        incoming.store(kept.back().get(), std::memory_order_release);
        return withdrawn;
    }

    /// Frees the clips that the audio thread has left.
    void tidy()
    {
        kept.erase(std::remove_if(kept.begin(), kept.end(), [](const auto& clip) { return clip->isLeft(); }),
                   kept.end());
    }

    /// Asks the clip offered last, if the audio thread has not left it.
    void request(LoopClip::Request wanted)
    {
        if (!kept.empty())
            kept.back()->ask(wanted);
    }

    std::size_t held() const noexcept { return kept.size(); } ///< for the owner

    /// The clip offered last, once; else null.
    LoopClip* take() noexcept { return incoming.exchange(nullptr, std::memory_order_acq_rel); }

private:
    std::shared_ptr<LoopClip> remove(const LoopClip* which)
    {
        const auto found =
            std::find_if(kept.begin(), kept.end(), [&](const auto& clip) { return clip.get() == which; });
        if (found == kept.end())
            return nullptr;
        std::shared_ptr<LoopClip> removed = std::move(*found);
        kept.erase(found);
        return removed;
    }

    std::vector<std::shared_ptr<LoopClip>> kept;
    std::atomic<LoopClip*> incoming{nullptr};
};
} // namespace demon
