// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "CleanInput.h"
#include "Controls.h"
#include "FrameAssembler.h"
#include "OutputPlace.h"
#include "OutputStage.h"
#include "SegmentMap.h"
#include "StreamItems.h"
#include "Timeline.h"
#include "Waiting.h"
#include "WindowReader.h"

namespace demon
{
/// One stereo stream at one rate and one latency: input in, what the engine made of the input of `latency` ago out.
///
/// Threads: process and everything private belong to the audio thread; requestReset may be called from any; the rings
/// and the cursor are shared with the link thread. Construction allocates everything there is. With NeverWait, process
/// is real-time safe.
class Stream
{
public:
    static constexpr std::size_t kRingFrames = 64;

    Stream(int sampleRate, int latencyInFrames, EpochNumbers& epochNumbers, Telemetry& numbersForUser)
        : rate(sampleRate), latencyFrames(latencyInFrames), grid(FrameGrid::forRate(sampleRate)),
          latencySamples(static_cast<std::int64_t>(latencyInFrames) * grid.length),
          feedRing(kRingFrames, silentItem<FeedItem>(grid)), wetRing(kRingFrames, silentItem<WetFrame>(grid)),
          epochs(epochNumbers), telemetry(numbersForUser), timeline(sampleRate), assembler(feedRing, grid),
          windows(wetRing, cursor, numbersForUser),
          output(static_cast<std::size_t>(latencySamples), sampleRate, numbersForUser),
          notes(numbersForUser.notes, static_cast<std::size_t>(latencyInFrames) + 2 + SegmentMap::kCapacity)
    {
    }

    const int rate;
    const int latencyFrames;
    const FrameGrid grid;
    const std::int64_t latencySamples;
    FeedRing feedRing;   ///< producer: audio thread; consumer: link thread
    WetRing wetRing;     ///< producer: link thread; consumer: audio thread
    OutputCursor cursor; ///< written by the audio thread

    /// Any thread, wait-free: the next block starts as if after construction, and nothing before it is wanted.
    void requestReset() noexcept { resetRequested.store(true, std::memory_order_release); }

    using BlockReport = demon::BlockReport;
    /// Audio thread.
    const BlockReport& lastBlock() const noexcept { return report; }

    /// Replaces `count` samples of both channels. `waiter` is NeverWait or OfflineWait.
    template <class Waiter>
    void process(std::array<float*, 2> audio, int count, const Transport& transport, const Controls& controls,
                 Waiter& waiter)
    {
        if (count <= 0)
            return;
        if (resetRequested.exchange(false, std::memory_order_acq_rel))
            restart();
        sendPendingDrop();
        removeNonFinite(audio, count, telemetry);
        telemetry.meters.input.measure({audio[0], audio[1]}, static_cast<std::size_t>(count), static_cast<float>(rate));
        enterBlock(transport, count, controls, waiter);

        const OutputStage::Level level = OutputStage::Level::of(controls);
        const OutputStage::Finish finish = OutputStage::Finish::of(controls, transport.offline);
        for (std::size_t done = 0; done < static_cast<std::size_t>(count);)
        {
            const OutputPlace place = OutputPlace::of(segments, grid, counter - latencySamples);
            const std::size_t run = runLength(place, static_cast<std::size_t>(count) - done);
            const std::array<float*, 2> part{audio[0] + done, audio[1] + done};
            collect(part, run, controls, waiter);
            play(part, run, place, level, finish, controls.latePolicy, waiter);
            counter += static_cast<std::int64_t>(run);
            done += run;
        }
    }

private:
    static constexpr std::size_t kMaxRun = OutputStage::kMaxRun;
    static constexpr std::array<float, kMaxRun> kSilence{};

    void restart() noexcept
    {
        timeline.reset();
        segments.clear();
        assembler.abandon();
        windows.restart();
        output.restart();
        notes.restart();
        counter = 0;
        dropUpTo = staleThrough = epochs.newest();
    }

    void sendPendingDrop() noexcept
    {
        const auto fill = [&](FeedItem& item)
        {
            item.kind = FeedItem::Kind::drop;
            item.epoch = dropUpTo;
        };
        if (dropUpTo > 0 && feedRing.tryPush(fill))
            dropUpTo = 0;
    }

    /// Continues the running epoch or starts the next segment, with or without an epoch.
    template <class Waiter>
    void enterBlock(const Transport& transport, int count, const Controls& controls, Waiter& waiter)
    {
        const Timeline::Place place = isSupportedRate(rate) ? timeline.advance(transport, count) : Timeline::Place{};
        report = {assembler.currentEpoch(), place.sample, false, false};
        const bool hasSegment = counter > 0;
        if (hasSegment && (place.onTimeline ? place.continues && assembler.isOpen() : !assembler.isOpen()))
            return;
        assembler.end(waiter);
        notes.close();
        if (place.onTimeline && !segments.isFull())
            assembler.begin(epochs, {place.sample, transport.offline, false}, controls.lanes, waiter);
        waiter.arrived();
        segments.add({counter, assembler.currentEpoch(), place.sample});
        report.epoch = assembler.currentEpoch();
    }

    std::size_t runLength(const OutputPlace& place, std::size_t available) const noexcept
    {
        std::size_t run = std::min(available, kMaxRun);
        run = static_cast<std::size_t>(std::min<std::int64_t>(static_cast<std::int64_t>(run), place.untilEnd));
        return assembler.isOpen() ? std::min(run, assembler.untilFrameEnd()) : run;
    }

    /// Hands `run` samples of input to the assembler.
    template <class Waiter>
    void collect(std::array<float*, 2> input, std::size_t run, const Controls& controls, Waiter& waiter)
    {
        if (!assembler.isOpen())
            return;
        hear(input, run, controls.lanes);
        if (!assembler.append(input[0], input[1], run, controls.lanes, waiter))
        {
            telemetry.feedOverflows.fetch_add(1, std::memory_order_relaxed);
            segments.add({counter, 0, 0}); // this run is lost to the engine; the next block begins an epoch
        }
        waiter.arrived();
    }

    /// Notes the input of a frame, which ends where the assembler's does.
    void hear(std::array<float*, 2> input, std::size_t run, const LaneValues& lanes) noexcept
    {
        const std::int32_t epoch = assembler.currentEpoch();
        const std::int64_t frame = assembler.currentFrame();
        if (epoch != heardEpoch || frame != heardFrame)
            notes.begin(counter, epoch, frame, lanes);
        heardEpoch = epoch;
        heardFrame = frame;
        notes.hear({input[0], input[1]}, run);
        if (run == assembler.untilFrameEnd())
            notes.close();
    }

    /// Replaces `run` samples of input by the output.
    template <class Waiter>
    void play(std::array<float*, 2> audio, std::size_t run, const OutputPlace& place, OutputStage::Level level,
              OutputStage::Finish finish, LatePolicy latePolicy, Waiter& waiter)
    {
        output.delay(audio, run, level);
        if (place.isSilent)
        {
            windows.discardThrough(staleThrough); // those that came before the link thread knew of the reset
            std::fill_n(audio[0], run, 0.0f);
            std::fill_n(audio[1], run, 0.0f);
            return;
        }
        const WetSplice::Source source = chooseSource(audio, place, latePolicy, waiter);
        output.mix(audio, run, source, finish);
        if (place.epoch != 0)
            notes.play(counter - latencySamples, source.hasWindow() ? FrameStatus::ready : FrameStatus::late, 0,
                       {audio[0], audio[1]}, run);
    }

    template <class Waiter>
    WetSplice::Source chooseSource(std::array<float*, 2> dry, const OutputPlace& place, LatePolicy latePolicy,
                                   Waiter& waiter)
    {
        WetSplice::Source source;
        source.run = source.take.epoch = place.epoch;
        source.replacement = {dry[0], dry[1]};
        if (place.epoch == 0)
            return source;
        if (const WetFrame* window = windows.at(place.epoch, place.frame, waiter))
        {
            const float* left = window->audio.data() + place.offset;
            source.window = {left, left + grid.length};
            report.hasWet = true;
        }
        else
        {
            report.late = true;
        }
        source.replacementIsSilence = latePolicy == LatePolicy::silence && !Waiter::kWaits; // else: dry
        if (source.replacementIsSilence)
            source.replacement = {kSilence.data(), kSilence.data()};
        return source;
    }

    EpochNumbers& epochs;
    Telemetry& telemetry;
    Timeline timeline;
    SegmentMap segments;
    FrameAssembler assembler;
    WindowReader windows;
    OutputStage output;
    NoteTaker notes;
    std::int32_t heardEpoch = 0; ///< of the frame whose note was begun last
    std::int64_t heardFrame = 0;
    BlockReport report;
    std::int64_t counter = 0;      ///< input samples since the last start
    std::int32_t dropUpTo = 0;     ///< the epoch of a drop that still has to be sent, or 0
    std::int32_t staleThrough = 0; ///< the newest epoch before the last restart
    std::atomic<bool> resetRequested{false};
};
} // namespace demon
