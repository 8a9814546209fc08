// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "FrameAssembler.h"
#include "OutputStage.h"
#include "SegmentMap.h"
#include "StreamItems.h"
#include "Timeline.h"
#include "Waiting.h"
#include "WindowReader.h"

namespace demon
{
/// What plays in place of a window that has not arrived in time.
enum class LatePolicy
{
    dry,
    silence
};

/// The controls of one block.
struct Controls
{
    LaneValues lanes{};
    bool bypassed = false;
    LatePolicy latePolicy = LatePolicy::dry;
};

/// Gives every epoch of a plugin instance its number. Audio thread only; outlives the streams.
struct EpochNumbers
{
    std::int32_t last = 0;
};

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
          output(static_cast<std::size_t>(latencySamples), sampleRate / kRampsPerSecond)
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

    /// What the last block was, for the probe. Audio thread.
    struct BlockReport
    {
        std::int32_t epoch = 0;
        std::int64_t position = 0;
        bool late = false;   ///< part of the output had no window in time
        bool hasWet = false; ///< part of the output came from a window
    };
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
        removeNonFinite(audio, count);
        enterBlock(transport, count, controls, waiter);

        const OutputStage::Level level = levelOf(controls);
        for (std::size_t done = 0; done < static_cast<std::size_t>(count);)
        {
            const OutputPlace place = outputPlace();
            const std::size_t run = runLength(place, static_cast<std::size_t>(count) - done);
            const std::array<float*, 2> part{audio[0] + done, audio[1] + done};
            collect(part, run, controls, waiter);
            play(part, run, place, level, controls.latePolicy, waiter);
            counter += static_cast<std::int64_t>(run);
            done += run;
        }
    }

private:
    static constexpr std::size_t kMaxRun = OutputStage::kMaxRun;
    static constexpr std::array<float, kMaxRun> kSilence{};
    static constexpr int kRampsPerSecond = 200; // mix and gain glide over 5 ms

    /// Where the next output sample lies. `isSilent` for the first latency after a start.
    struct OutputPlace
    {
        bool isSilent = true;
        std::int32_t epoch = 0;
        std::int64_t frame = 0;
        std::size_t offset = 0;    ///< inside the frame
        std::int64_t untilEnd = 0; ///< samples before any of the above changes
    };

    template <class Item> static Item silentItem(FrameGrid grid)
    {
        Item item;
        item.audio.assign(2 * static_cast<std::size_t>(grid.length), 0.0f);
        return item;
    }

    /// Bypass is the dry signal at unity gain.
    static OutputStage::Level levelOf(const Controls& controls) noexcept
    {
        if (controls.bypassed)
            return {0.0f, 1.0f};
        return {controls.lanes[lane::mix], std::pow(10.0f, controls.lanes[lane::output_gain] / 20.0f)};
    }

    void restart() noexcept
    {
        timeline.reset();
        segments.clear();
        assembler.abandon();
        windows.restart();
        output.restart();
        counter = 0;
        dropUpTo = staleThrough = epochs.last;
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

    void removeNonFinite(std::array<float*, 2> audio, int count) noexcept
    {
        std::int64_t found = 0;
        for (float* channel : audio)
            for (int i = 0; i < count; ++i)
                if (!std::isfinite(channel[i]))
                {
                    channel[i] = 0.0f;
                    ++found;
                }
        if (found > 0)
            telemetry.nonFiniteSamples.fetch_add(found, std::memory_order_relaxed);
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
        const bool hasBegun = place.onTimeline && !segments.isFull() &&
                              assembler.begin(epochs.last + 1, place.sample, transport.offline, controls.lanes, waiter);
        if (hasBegun)
            ++epochs.last;
        waiter.arrived();
        segments.add({counter, assembler.currentEpoch(), place.sample});
        report.epoch = assembler.currentEpoch();
    }

    OutputPlace outputPlace() noexcept
    {
        OutputPlace place;
        const std::int64_t at = counter - latencySamples;
        if (at < 0)
        {
            place.untilEnd = -at;
            return place;
        }
        const Segment& segment = segments.at(at);
        place.isSilent = false;
        place.epoch = segment.epoch;
        place.untilEnd = segments.nextCounter() - at;
        if (segment.epoch != 0)
        {
            const std::int64_t position = segment.position + (at - segment.counter);
            place.frame = grid.frameOf(position);
            place.offset = static_cast<std::size_t>(grid.offsetOf(position));
            place.untilEnd = std::min<std::int64_t>(place.untilEnd, grid.length - grid.offsetOf(position));
        }
        return place;
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
        if (!assembler.append(input[0], input[1], run, controls.lanes, waiter))
        {
            telemetry.feedOverflows.fetch_add(1, std::memory_order_relaxed);
            segments.add({counter, 0, 0}); // this run is lost to the engine; the next block begins an epoch
        }
        waiter.arrived();
    }

    /// Replaces `run` samples of input by the output.
    template <class Waiter>
    void play(std::array<float*, 2> audio, std::size_t run, const OutputPlace& place, OutputStage::Level level,
              LatePolicy latePolicy, Waiter& waiter)
    {
        output.delay(audio, run, level);
        if (place.isSilent)
        {
            windows.discardThrough(staleThrough); // those that came before the link thread knew of the reset
            std::fill_n(audio[0], run, 0.0f);
            std::fill_n(audio[1], run, 0.0f);
            return;
        }
        output.mix(audio, run, chooseSource(audio, place, latePolicy, waiter));
    }

    template <class Waiter>
    WetSplice::Source chooseSource(std::array<float*, 2> dry, const OutputPlace& place, LatePolicy latePolicy,
                                   Waiter& waiter)
    {
        WetSplice::Source source;
        source.epoch = place.epoch;
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
    BlockReport report;
    std::int64_t counter = 0;      ///< input samples since the last start
    std::int32_t dropUpTo = 0;     ///< the epoch of a drop that still has to be sent, or 0
    std::int32_t staleThrough = 0; ///< the newest epoch before the last restart
    std::atomic<bool> resetRequested{false};
};
} // namespace demon
