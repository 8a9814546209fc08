// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "CleanInput.h"
#include "Controls.h"
#include "FrozenAudio.h"
#include "OutputPlace.h"
#include "OutputStage.h"
#include "SegmentMap.h"
#include "StaleWatch.h"
#include "StreamItems.h"
#include "Timeline.h"

namespace demon
{
/// Plays a frozen result at its place on the timeline, with the latency of the player that it replaces and without an
/// engine; outside of it, or when there is none, the dry signal. Meanwhile it compares the input with the one that the
/// result was made from: see StaleWatch.
///
/// With a latency it stands for a Stream: its input is the host's audio and lanes. Without one it stands for a Loop:
/// the clip cycles if the controls say so, and what is compared is the loop's clip, with the host's lanes and those
/// that were drawn.
///
/// The result's bits come out exactly. Only where, while a run lasts, the result begins or ends there is a fade of a
/// few milliseconds (see WetSplice), and in real time also at a locate. What comes out does not depend on block sizes.
///
/// Threads: process and everything private belong to the audio thread and are real-time safe with any waiter, since
/// nothing is waited for; requestReset and stale() may be called from any. Construction allocates everything there is.
class FrozenPlayer
{
public:
    /// `latencyInFrames` 0 stands for a Loop, with `loopClip` as the clip that it would play. `result` is at
    /// `sampleRate`.
    FrozenPlayer(int sampleRate, int latencyInFrames, FrozenAudio result, Telemetry& numbersForUser,
                 FrozenClip loopClip = {})
        : rate(sampleRate), grid(FrameGrid::forRate(sampleRate)),
          latencySamples(static_cast<std::int64_t>(latencyInFrames) * grid.length), isLoop(latencyInFrames == 0),
          frozen(std::move(result)), clip(std::move(loopClip)), watch(frozen), telemetry(numbersForUser),
          timeline(sampleRate), output(static_cast<std::size_t>(latencySamples), sampleRate, numbersForUser),
          notes(numbersForUser.notes, static_cast<std::size_t>(latencyInFrames) + 2 + SegmentMap::kCapacity)
    {
        if (clip.source != nullptr && clip.source->rate != rate)
            clip = {}; // its samples say nothing at this rate
    }

    const int rate;
    const FrameGrid grid;
    const std::int64_t latencySamples;

    /// Any thread, wait-free: the next block starts as if after construction, but for what is known to be stale.
    void requestReset() noexcept { resetRequested.store(true, std::memory_order_release); }

    /// Audio thread, before the first block: this player goes on where another has played up to now. What would have
    /// come of the input before sounds at once, instead of a latency of silence.
    void takeOver() noexcept { hasTakenOver = counter == 0; }

    /// Any thread, wait-free: which frames are stale, as far as they have been heard since construction.
    const StaleWatch& stale() const noexcept { return watch; }

    /// Audio thread.
    const BlockReport& lastBlock() const noexcept { return report; }

    /// Replaces `count` samples of both channels. The waiter is not needed: it is there so that all players are called
    /// alike.
    template <class Waiter>
    void process(std::array<float*, 2> audio, int count, const Transport& transport, const Controls& controls,
                 Waiter& /*waiter*/) noexcept
    {
        if (count <= 0)
            return;
        if (resetRequested.exchange(false, std::memory_order_acq_rel))
            restart();
        removeNonFinite(audio, count, telemetry);
        telemetry.meters.input.measure({audio[0], audio[1]}, static_cast<std::size_t>(count), static_cast<float>(rate));
        enterBlock(transport, count);

        const OutputStage::Level level = OutputStage::Level::of(controls);
        const OutputStage::Finish finish = OutputStage::Finish::of(controls, transport.offline);
        for (std::size_t done = 0; done < static_cast<std::size_t>(count);)
        {
            const OutputPlace place = outputPlace();
            const std::size_t length = runLength(place, static_cast<std::size_t>(count) - done);
            const std::array<float*, 2> part{audio[0] + done, audio[1] + done};
            if (run != 0)
                hear(part, length, controls);
            output.delay(part, length, level);
            if (counter < latencySamples)
                output.replaceLevel(length, level);
            play(part, length, place, transport.offline, controls.outside, finish);
            counter += static_cast<std::int64_t>(length);
            position += static_cast<std::int64_t>(length);
            done += length;
        }
    }

private:
    static constexpr std::size_t kMaxRun = OutputStage::kMaxRun;
    static constexpr std::int32_t kLiveRun = -1; ///< every run of real time, for the splice

    void restart() noexcept
    {
        timeline.reset();
        segments.clear();
        output.restart();
        notes.restart();
        counter = 0;
        run = 0;
        hasTakenOver = false;
    }

    /// Continues the run over the timeline, or starts the next segment, with or without a run.
    void enterBlock(const Transport& transport, int count) noexcept
    {
        const Timeline::Place place = isSupportedRate(rate) ? timeline.advance(transport, count) : Timeline::Place{};
        const bool hasSegment = counter > 0;
        if (!hasSegment || (place.onTimeline ? !place.continues || run == 0 : run != 0))
        {
            notes.close();
            run = place.onTimeline && !segments.isFull() ? ++lastRun : 0;
            segments.add({counter, run, place.sample});
        }
        if (!hasSegment)
        {
            firstRun = run;
            firstPosition = place.sample;
        }
        position = place.sample;
        report = {run, place.sample, false, false};
    }

    OutputPlace outputPlace() noexcept
    {
        const std::int64_t at = counter - latencySamples;
        if (at >= 0 || !hasTakenOver || firstRun == 0)
            return OutputPlace::of(segments, grid, at);
        const std::int64_t sounding = firstPosition + at;
        const int offset = grid.offsetOf(sounding);
        return {false, firstRun, grid.frameOf(sounding), static_cast<std::size_t>(offset),
                std::min<std::int64_t>(-at, grid.length - offset)};
    }

    std::size_t runLength(const OutputPlace& place, std::size_t available) const noexcept
    {
        std::size_t length = std::min(available, kMaxRun);
        length = static_cast<std::size_t>(std::min<std::int64_t>(static_cast<std::int64_t>(length), place.untilEnd));
        return run != 0 ? std::min(length, static_cast<std::size_t>(grid.length - grid.offsetOf(position))) : length;
    }

    /// Notes and compares input, all of one frame.
    void hear(std::array<float*, 2> input, std::size_t length, const Controls& controls) noexcept
    {
        const std::int64_t frame = grid.frameOf(position);
        if (run != heardRun || frame != heardFrame)
            notes.begin(counter, run, frame, controls.lanes);
        heardRun = run;
        heardFrame = frame;
        notes.hear({input[0], input[1]}, length);
        if (isLoop)
            compareClip(frame, length, controls);
        else
            watch.append(position, input[0], input[1], static_cast<std::int64_t>(length), wireLanesOf(controls.lanes));
        if (grid.offsetOf(position) + static_cast<int>(length) == grid.length)
            notes.close();
    }

    void compareClip(std::int64_t frame, std::size_t length, const Controls& controls) noexcept
    {
        const auto found = frozenFrame(frame, controls.outside);
        if (!found || clip.source == nullptr || *found < clip.source->firstFrame || *found >= clip.source->endFrame())
            return;
        const int offset = grid.offsetOf(position);
        watch.append(grid.firstSampleOf(*found) + offset, clip.source->at(*found, 0) + offset,
                     clip.source->at(*found, 1) + offset, static_cast<std::int64_t>(length),
                     clipLanes(*found, wireLanesOf(controls.lanes)));
    }

    /// Those of a loop: drawn ones stay, the others follow the host.
    WireLaneValues clipLanes(std::int64_t frame, WireLaneValues host) const noexcept
    {
        const LaneTable& table = *clip.lanes;
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
            if (table.isDrawn(column) && frame >= table.firstFrame() && frame < table.end())
                host[column] = table.at(column, frame);
        return host;
    }

    /// Which frame of the result sounds at `frame` of the timeline, if any.
    std::optional<std::int64_t> frozenFrame(std::int64_t frame, OutsidePolicy outside) const noexcept
    {
        if (frozen.hasFrame(frame))
            return frame;
        if (!isLoop || outside == OutsidePolicy::dry || frozen.frames == 0)
            return std::nullopt;
        return frame - floorDivide(frame - frozen.firstFrame, frozen.frames) * frozen.frames;
    }

    /// Replaces delayed input by the output.
    void play(std::array<float*, 2> audio, std::size_t length, const OutputPlace& place, bool offline,
              OutsidePolicy outside, OutputStage::Finish finish) noexcept
    {
        if (place.isSilent)
        {
            std::fill_n(audio[0], length, 0.0f);
            std::fill_n(audio[1], length, 0.0f);
            return;
        }
        const auto found = place.epoch != 0 ? frozenFrame(place.frame, outside) : std::nullopt;
        WetSplice::Source source;
        // To the splice a run's start is exact, which a bounce needs; and from take to take there is a fade, which is
        // what a locate wants while one listens.
        source.run = offline ? place.epoch : kLiveRun;
        source.take.epoch = place.epoch;
        source.replacement = {audio[0], audio[1]};
        if (found)
        {
            const std::array<const float*, 2> begin = frozen.at(*found);
            source.window = {begin[0] + place.offset, begin[1] + place.offset};
            report.hasWet = true;
        }
        output.mix(audio, length, source, finish);
        if (place.epoch != 0)
            notes.play(counter - latencySamples, found ? statusOf(*found) : FrameStatus::dry, 0, {audio[0], audio[1]},
                       length, true);
    }

    FrameStatus statusOf(std::int64_t frame) const noexcept
    {
        return watch.state(frame) == StaleWatch::State::stale ? FrameStatus::stale : FrameStatus::ready;
    }

    const bool isLoop;
    const FrozenAudio frozen;
    FrozenClip clip;
    StaleWatch watch;
    Telemetry& telemetry;
    Timeline timeline;
    SegmentMap segments;
    OutputStage output;
    NoteTaker notes;
    BlockReport report;
    std::int64_t counter = 0;          ///< input samples since the last start
    std::int64_t position = 0;         ///< of the next one on the timeline, if there is a run
    std::int32_t run = 0, lastRun = 0; ///< unbroken run over the timeline, 0: none
    bool hasTakenOver = false;
    std::int32_t firstRun = 0;      ///< since the last start
    std::int64_t firstPosition = 0; ///< of its first sample
    std::int32_t heardRun = 0;      ///< of the frame whose note was begun last
    std::int64_t heardFrame = 0;    ///< that frame
    std::atomic<bool> resetRequested{false};
};
} // namespace demon
