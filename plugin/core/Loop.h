// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "CleanInput.h"
#include "Controls.h"
#include "FrameAssembler.h"
#include "LoopClip.h"
#include "LoopFeed.h"
#include "LoopSigns.h"
#include "OutputStage.h"
#include "StreamItems.h"
#include "Timeline.h"
#include "Waiting.h"
#include "WindowSearch.h"

namespace demon
{
/// One stereo clip that the engine regenerates without pause: in real time the newest take of each frame sounds at its
/// place on the timeline, without latency; offline (a bounce) only frames of one commit do. LoopState names its states.
///
/// A capture ends where the run over the timeline does (stop, locate, loop jump, reset, a change between real time and
/// offline), on request, or when the clip is full. The clip has every frame that the capture touched: what is missing
/// of the first and of the last one is zero, so that nothing that was played gets lost. A clip of less than
/// kLeastFrames is refused, and the older one stays.
///
/// A new clip takes over at the first frame of output where it has audio, or where the older one or the new one has
/// nothing to play.
///
/// Threads: process and everything private belong to the audio thread; offer, tidy, draw and requestCaptureEnd to the
/// message thread; the consumer's side of feed, wetRing's producer and spent.freeAll to the link thread; requestReset
/// and signs to any. Construction allocates everything there is but the clips. With NeverWait, process is real-time
/// safe.
class Loop
{
public:
    static constexpr std::int64_t kLeastFrames = kFramesPerSecond;

    Loop(int sampleRate, EpochNumbers& epochNumbers, Telemetry& numbersForUser)
        : rate(sampleRate), grid(FrameGrid::forRate(sampleRate)), feed(grid), wetRing(LoopFeed::kRingFrames),
          spent(LoopFeed::kRingFrames), drawings(kRingDrawings), epochs(epochNumbers), telemetry(numbersForUser),
          timeline(sampleRate), assembler(feed.frames, grid), search(numbersForUser),
          output(0, sampleRate, numbersForUser), notes(numbersForUser.notes, 2)
    {
    }

    const int rate;
    const FrameGrid grid;
    LoopFeed feed;       ///< to the link thread
    WetRing wetRing;     ///< producer: link thread, which swaps its buffers in; consumer: audio thread
    SpentBuffers spent;  ///< from the audio thread to the link thread
    OutputCursor cursor; ///< the frame that sounds, of the epoch whose windows are wanted; written by the audio thread
    LoopSigns signs;

    /// Message thread. A clip to capture into, to play, or nothing; see LoopClip. A given clip must be offered before
    /// the engine hears of it: frames of an unknown epoch are thrown away. Returns the clip that the audio thread will
    /// now never see, or null; if that one was given, its epoch is the caller's to end.
    std::shared_ptr<LoopClip> offer(std::shared_ptr<LoopClip> clip) { return clips.offer(std::move(clip)); }

    /// Message thread, now and then: frees the clips that are out of use.
    void tidy() { clips.tidy(); }

    /// Message thread, wait-free. False when there is no room: try again after the next block. While a clip is captured
    /// drawings wait.
    bool draw(const LaneDrawing& drawing) noexcept
    {
        return drawings.tryPush([&](LaneDrawing& slot) { slot = drawing; });
    }

    /// Message thread: ends the capture of the clip offered last. `end` is finish, with what there is, or cancel; a
    /// clip that is armed only is disarmed by either.
    void requestCaptureEnd(LoopClip::Request end) noexcept { clips.request(end); }

    /// Any thread, wait-free: the next block starts anew, and positions are counted from it. The clip stays; a capture
    /// ends with what there is; a bounce commits again.
    void requestReset() noexcept { resetRequested.store(true, std::memory_order_release); }

    /// Audio thread.
    const BlockReport& lastBlock() const noexcept { return report; }

    /// Replaces `count` samples of both channels. `waiter` is NeverWait, or OfflineWait when the transport is offline.
    template <class Waiter>
    void process(std::array<float*, 2> audio, int count, const Transport& transport, const Controls& controls,
                 Waiter& waiter)
    {
        if (count <= 0)
            return;
        if (resetRequested.exchange(false, std::memory_order_acq_rel))
            restart(waiter);
        receive(waiter);
        obeyRequest(waiter);
        removeNonFinite(audio, count, telemetry);
        telemetry.meters.input.measure({audio[0], audio[1]}, static_cast<std::size_t>(count), static_cast<float>(rate));
        enterBlock(transport, count, controls, waiter);

        for (std::size_t done = 0; done < static_cast<std::size_t>(count);)
        {
            const std::size_t run = runLength(static_cast<std::size_t>(count) - done);
            const std::array<float*, 2> part{audio[0] + done, audio[1] + done};
            enterFrame(transport.offline, controls, waiter);
            notes.hear({part[0], part[1]}, run);
            capture(part, run, controls, waiter);
            play(part, run, transport.offline, controls);
            position += static_cast<std::int64_t>(run);
            counter += static_cast<std::int64_t>(run);
            done += run;
        }
        NeverWait never;
        feed.sendWords(never);
        publishSigns();
    }

private:
    static constexpr std::size_t kMaxRun = OutputStage::kMaxRun;
    static constexpr std::size_t kRingDrawings = 64;
    static constexpr std::size_t kFramesPerBlock = 64;  // received in one block
    static constexpr std::size_t kDrawingsPerBlock = 8; // applied in one block
    static constexpr std::size_t kEditsPerBlock = 512;  // sent later, in one block
    static constexpr std::size_t kBuffersPerBlock = 16; // given back in one block
    static constexpr std::array<float, kMaxRun> kSilence{};

    /// The frame of output that sounds.
    struct Sounding
    {
        std::int32_t passage = -1; ///< unbroken run over the timeline, 0: none
        std::int64_t frame = 0;    ///< of the timeline
        std::optional<std::int64_t> clipFrame;
        ClipCache::Found bounced; ///< of a bounce: does not change while it sounds
        FrameStatus status = FrameStatus::dry;
    };

    bool isCapturing() const noexcept { return assembler.isOpen(); }
    bool isNextComplete() const noexcept { return next != nullptr && next->isComplete(); }
    bool isArmed() const noexcept { return next != nullptr && !next->isComplete() && !isCapturing(); }

    // --- clips ---

    /// Takes the newest clip and what has arrived of the engine.
    template <class Waiter> void receive(Waiter& waiter)
    {
        if (!feed.sendWords(waiter))
            return;
        // In this order: frames that are counted here were sent after their clip was offered.
        const std::size_t arrived = std::min(kFramesPerBlock, wetRing.size());
        takeClip();
        for (std::size_t i = 0; i < arrived; ++i)
            wetRing.tryPop([this](WetFrame& wet) { keep(wet); });
    }

    void takeClip() noexcept
    {
        LoopClip* const taken = clips.take();
        if (taken == nullptr)
            return;
        if (next != nullptr)
            discardNext(CaptureEnd::cancelled);
        next = taken;
        if (next->purpose == LoopClip::Purpose::capture || next->isComplete())
            return;
        endBounce();
        enterNext();
        active->leave();
        active = nullptr;
    }

    /// The clip that was to come does not.
    void discardNext(CaptureEnd reason) noexcept
    {
        if (!next->isComplete())
            captureEnd = reason;
        assembler.abandon();
        if (next->epoch != 0)
            feed.release(next->epoch);
        next->leave();
        next = nullptr;
    }

    void enterNext() noexcept
    {
        if (active != nullptr)
        {
            feed.release(active->epoch);
            active->leave();
        }
        active = std::exchange(next, nullptr);
        sounding.clipFrame.reset(); // was the other's
    }

    void keep(WetFrame& wet) noexcept
    {
        if (wet.audio.size() != 2 * static_cast<std::size_t>(grid.length))
            return;
        if (active != nullptr && wet.epoch == active->epoch)
            active->live.put(wet.frame, wet.take, wet.audio, soundsSoon(wet.frame), spent);
        else if (isNextComplete() && wet.epoch == next->epoch)
            next->live.put(wet.frame, wet.take, wet.audio, false, spent);
        else if (bounceEpoch != 0 && wet.epoch == bounceEpoch && active->bounce.at(wet.frame).take != bounceEpoch)
            active->bounce.put(wet.frame, bounceEpoch, wet.audio, false, spent);
    }

    bool soundsSoon(std::int64_t clipFrame) const noexcept
    {
        if (!sounding.clipFrame)
            return false;
        const LaneTable& table = active->memory.table();
        const std::int64_t following =
            *sounding.clipFrame + 1 == table.end() ? table.firstFrame() : *sounding.clipFrame + 1;
        return clipFrame == *sounding.clipFrame || clipFrame == following;
    }

    // --- blocks ---

    template <class Waiter> void restart(Waiter& waiter)
    {
        finishCapture(CaptureEnd::complete, waiter);
        endBounce();
        timeline.reset();
        output.restart();
        notes.restart();
        sounding = {};
        wasOffline = false;
    }

    template <class Waiter>
    void enterBlock(const Transport& transport, int count, const Controls& controls, Waiter& waiter)
    {
        const Timeline::Place place = isSupportedRate(rate) ? timeline.advance(transport, count) : Timeline::Place{};
        report = {active != nullptr ? active->epoch : 0, place.sample, false, false};
        position = place.sample;
        if (!place.onTimeline || !place.continues)
        {
            finishCapture(CaptureEnd::complete, waiter);
            notes.close();
            passage = place.onTimeline ? ++lastPassage : 0;
        }
        if (!transport.offline)
            endBounce();
        else if (!wasOffline)
            output.restart(); // a bounce does not depend on what sounded before it
        wasOffline = transport.offline;
        if (isArmed() && place.onTimeline && feed.sendWords(waiter))
            beginCapture({place.sample, transport.offline, true}, controls, waiter);
        if (!place.onTimeline && isNextComplete() && bounceEpoch == 0)
            enterNext();
        exchangeLanes(controls);
        if (active != nullptr && bounceEpoch == 0)
            active->bounce.giveBack(kBuffersPerBlock, spent);
    }

    template <class Waiter> void obeyRequest(Waiter& waiter)
    {
        if (!isArmed() && !isCapturing())
            return;
        const LoopClip::Request wanted = next->takeRequest();
        if (wanted == LoopClip::Request::finish && isCapturing())
            finishCapture(CaptureEnd::complete, waiter);
        else if (wanted != LoopClip::Request::none)
            discardNext(CaptureEnd::cancelled);
    }

    /// What the user has drawn goes into the clips' lanes, and what found no room on its way to the link thread
    /// follows.
    void exchangeLanes(const Controls& controls) noexcept
    {
        const WireLaneValues host = wireLanesOf(controls.lanes);
        const auto apply = [&](const LaneDrawing& drawing)
        {
            for (LoopClip* clip : {active, next})
                if (clip != nullptr && clip->isComplete() && clip->epoch == drawing.epoch)
                {
                    clip->memory.draw(drawing, host, feed.senderFor(clip->epoch));
                    if (bounceEpoch != 0)
                        telemetry.commitStale.store(true, std::memory_order_relaxed);
                }
        };
        for (std::size_t most = kDrawingsPerBlock; most > 0 && !isCapturing() && drawings.tryPop(apply);)
            --most;
        for (LoopClip* clip : {active, next})
            if (clip != nullptr)
                clip->memory.flush(kEditsPerBlock, feed.senderFor(clip->epoch));
    }

    std::size_t runLength(std::size_t available) const noexcept
    {
        const std::size_t most = std::min(available, kMaxRun);
        return passage == 0 ? most : std::min(most, static_cast<std::size_t>(grid.length - grid.offsetOf(position)));
    }

    void publishSigns() noexcept
    {
        const LoopClip* const newest = isNextComplete() ? next : active;
        const auto relaxed = std::memory_order_relaxed;
        signs.state.store(isCapturing()       ? LoopState::capturing
                          : isArmed()         ? LoopState::armed
                          : newest == nullptr ? LoopState::empty
                                              : LoopState::playing,
                          relaxed);
        signs.captureEnd.store(captureEnd, relaxed);
        signs.epoch.store(newest != nullptr ? newest->epoch : 0, relaxed);
        signs.firstFrame.store(newest != nullptr ? newest->memory.table().firstFrame() : 0, relaxed);
        signs.frames.store(newest != nullptr ? newest->memory.table().frames() : 0, relaxed);
        signs.revision.store(newest != nullptr ? newest->memory.table().revision() : 0, relaxed);
        signs.isBouncing.store(bounceEpoch != 0, relaxed);
    }

    // --- capture ---

    template <class Waiter>
    void beginCapture(const FrameAssembler::Start& start, const Controls& controls, Waiter& waiter)
    {
        endBounce();
        if (!assembler.begin(epochs, start, controls.lanes, waiter))
            return; // armed still
        waiter.arrived();
        captureEnd = CaptureEnd::none;
        sounding.clipFrame.reset();
        next->epoch = assembler.currentEpoch();
        next->memory.begin(assembler.currentFrame());
    }

    template <class Waiter>
    void capture(std::array<float*, 2> input, std::size_t count, const Controls& controls, Waiter& waiter)
    {
        if (!isCapturing())
            return;
        const std::int64_t frame = assembler.currentFrame();
        if (!assembler.append(input[0], input[1], count, controls.lanes, waiter))
            return overflow();
        waiter.arrived();
        recordLanes(frame);
        if (next->memory.table().frames() == next->memory.table().capacity())
            finishCapture(CaptureEnd::full, waiter);
    }

    /// `frame` was the assembler's, before something was added.
    void recordLanes(std::int64_t frame) noexcept
    {
        if (assembler.currentFrame() != frame)
            next->memory.capture(assembler.currentLanes());
    }

    void overflow() noexcept
    {
        telemetry.feedOverflows.fetch_add(1, std::memory_order_relaxed);
        discardNext(CaptureEnd::overflow);
    }

    template <class Waiter> void finishCapture(CaptureEnd reason, Waiter& waiter)
    {
        if (!isCapturing())
            return;
        const std::int64_t frame = assembler.currentFrame();
        if (!assembler.fillUp(waiter))
            return overflow();
        waiter.arrived();
        recordLanes(frame);
        const LaneTable& table = next->memory.table();
        if (table.frames() < kLeastFrames)
            return discardNext(CaptureEnd::tooShort);
        assembler.abandon();
        feed.end(next->epoch, table.end());
        feed.sendWords(waiter);
        next->complete(next->epoch);
        captureEnd = reason;
    }

    // --- bounce ---

    /// Asks for the clip as it is now. Once for every time that the host goes offline or resets.
    template <class Waiter> void beginBounce(Waiter& waiter)
    {
        hasAskedForCommit = true;
        if (isNextComplete())
            enterNext();
        telemetry.noClip.store(active == nullptr, std::memory_order_relaxed);
        if (active == nullptr)
            return;
        telemetry.commitStale.store(false, std::memory_order_relaxed);
        search.forgive();
        if (!sendCommit(waiter))
            telemetry.timedOut.store(true, std::memory_order_relaxed);
        waiter.arrived();
    }

    template <class Waiter> bool sendCommit(Waiter& waiter)
    {
        if (!feed.sendWords(waiter))
            return false;
        while (!active->memory.flush(kEditsPerBlock, feed.senderFor(active->epoch)))
            if (!waiter.forRoom())
                return false;
        const std::int32_t epoch = epochs.next();
        if (!feed.commit(epoch, active->epoch, waiter))
            return false;
        bounceEpoch = epoch;
        return true;
    }

    void endBounce() noexcept
    {
        hasAskedForCommit = false;
        if (bounceEpoch == 0)
            return;
        feed.release(bounceEpoch);
        bounceEpoch = 0;
        sounding.clipFrame.reset(); // was the commit's
    }

    template <class Waiter> ClipCache::Found findBounced(std::int64_t clipFrame, Waiter& waiter)
    {
        return search.find(bounceEpoch, waiter,
                           [&]
                           {
                               const ClipCache::Found found = active->bounce.at(clipFrame);
                               if (found.take == bounceEpoch)
                                   return found;
                               NeverWait never;
                               receive(never);
                               const ClipCache::Found newer = active->bounce.at(clipFrame);
                               return newer.take == bounceEpoch ? newer : ClipCache::Found{};
                           });
    }

    // --- frames ---

    /// Everything that happens once for every frame of output, when its first sample is due.
    template <class Waiter> void enterFrame(bool offline, const Controls& controls, Waiter& waiter)
    {
        const std::int64_t frame = grid.frameOf(position);
        if (passage == sounding.passage && (passage == 0 || frame == sounding.frame))
            return;
        sounding = {};
        sounding.passage = passage;
        sounding.frame = frame;
        notes.close();
        if (passage == 0)
            return;
        LaneValues lanes = controls.lanes;
        if (!isCapturing())
            enterClipFrame(offline, controls, lanes, waiter);
        notes.begin(counter, active != nullptr ? active->epoch : 0, frame, lanes);
    }

    /// The frame may be one of the clip's: finds out which, and what there is of it; `lanes` become those of the clip.
    template <class Waiter>
    void enterClipFrame(bool offline, const Controls& controls, LaneValues& lanes, Waiter& waiter)
    {
        if (offline && !hasAskedForCommit && !isArmed())
            beginBounce(waiter);
        if (isNextComplete() && !offline && isNextDue(controls.outside))
            enterNext();
        if (active == nullptr || (offline && bounceEpoch == 0))
            return;
        sounding.clipFrame = active->frameAt(sounding.frame, controls.outside);
        publishCursor(controls.outside);
        if (!sounding.clipFrame)
            return;
        const bool departs =
            active->memory.follow(*sounding.clipFrame, wireLanesOf(controls.lanes), feed.senderFor(active->epoch));
        if (departs && bounceEpoch != 0)
            telemetry.commitStale.store(true, std::memory_order_relaxed);
        setWireLanes(lanes, active->memory.table().row(*sounding.clipFrame));
        if (bounceEpoch != 0)
            sounding.bounced = findBounced(*sounding.clipFrame, waiter);
        judge(bounceEpoch != 0 ? sounding.bounced : active->live.at(*sounding.clipFrame));
    }

    bool isNextDue(OutsidePolicy outside) const noexcept
    {
        if (active == nullptr || !active->frameAt(sounding.frame, outside))
            return true;
        const auto clipFrame = next->frameAt(sounding.frame, outside);
        return !clipFrame || next->live.at(*clipFrame);
    }

    /// Of a clip that waits for its turn the audio is wanted already.
    void publishCursor(OutsidePolicy outside) noexcept
    {
        const LoopClip& wanted = isNextComplete() && bounceEpoch == 0 ? *next : *active;
        cursor.publish(bounceEpoch != 0 ? bounceEpoch : wanted.epoch,
                       wanted.frameAt(sounding.frame, outside).value_or(wanted.memory.table().firstFrame()));
    }

    void judge(const ClipCache::Found& found) noexcept
    {
        if (found)
            sounding.status = FrameStatus::ready;
        else if (bounceEpoch == 0 && active->live.isEmpty())
            sounding.status = FrameStatus::waiting;
        else
            sounding.status = FrameStatus::late;
        if (sounding.status == FrameStatus::waiting)
            telemetry.waitingFrames.fetch_add(1, std::memory_order_relaxed);
        if (sounding.status == FrameStatus::late)
            telemetry.lateFrames.fetch_add(1, std::memory_order_relaxed);
    }

    /// Replaces `count` samples of input by the output.
    void play(std::array<float*, 2> audio, std::size_t count, bool offline, const Controls& controls) noexcept
    {
        output.delay(audio, count, OutputStage::Level::of(controls));
        const WetSplice::Source source = chooseSource(audio, controls.latePolicy);
        output.mix(audio, count, source, OutputStage::Finish::of(controls, offline));
        report.late = report.late || (sounding.status == FrameStatus::late && !source.hasWindow());
        report.hasWet = report.hasWet || source.hasWindow();
        if (passage == 0)
            return;
        notes.play(counter, sounding.status, source.take.take, {audio[0], audio[1]}, count);
        if (grid.offsetOf(position) + static_cast<int>(count) == grid.length)
            notes.close();
    }

    WetSplice::Source chooseSource(std::array<float*, 2> dry, LatePolicy latePolicy) noexcept
    {
        WetSplice::Source source;
        source.run = passage;
        source.replacement = {dry[0], dry[1]};
        ClipCache::Found found;
        if (sounding.clipFrame && bounceEpoch != 0)
            found = sounding.bounced;
        else if (sounding.clipFrame)
            found = active->live.at(*sounding.clipFrame);
        if (found)
        {
            source.take = bounceEpoch != 0 ? TakeId{bounceEpoch, 0} : TakeId{active->epoch, found.take};
            source.beforeTake = {active->epoch, found.beforeTake};
            source.window = channelsOf(found.audio);
            if (found.before != nullptr && bounceEpoch == 0)
                source.before = channelsOf(found.before);
        }
        else
        {
            replacesBySilence =
                sounding.status == FrameStatus::late && bounceEpoch == 0 && latePolicy == LatePolicy::silence;
        }
        source.replacementIsSilence = replacesBySilence; // of a window: what it fades in from
        if (replacesBySilence)
            source.replacement = {kSilence.data(), kSilence.data()};
        return source;
    }

    std::array<const float*, 2> channelsOf(const float* frameAudio) const noexcept
    {
        const float* const left = frameAudio + grid.offsetOf(position);
        return {left, left + grid.length};
    }

    DrawingRing drawings; ///< producer: message thread
    ClipExchange clips;
    std::atomic<bool> resetRequested{false};

    EpochNumbers& epochs;
    Telemetry& telemetry;
    Timeline timeline;
    FrameAssembler assembler;
    WindowSearch search;
    OutputStage output;
    NoteTaker notes;
    LoopClip* active = nullptr; ///< what plays
    LoopClip* next = nullptr;   ///< is armed, captured, or waits for its turn
    CaptureEnd captureEnd = CaptureEnd::none;
    std::int32_t bounceEpoch = 0; ///< of the commit that plays, or 0
    bool hasAskedForCommit = false;
    bool wasOffline = false;
    bool replacesBySilence = false;
    std::int32_t passage = 0, lastPassage = 0; ///< unbroken run over the timeline, 0: none
    std::int64_t position = 0;                 ///< of the next sample, on the timeline if there is a passage
    std::int64_t counter = 0;                  ///< samples so far
    Sounding sounding;
    BlockReport report;
};
} // namespace demon
