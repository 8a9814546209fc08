// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "PlanarHash.h"
#include "Problem.h"
#include "Receipt.h"
#include "Sha256.h"
#include "WavWriter.h"
#include "core/FrameHash.h"
#include "demon/timebase.h"

namespace demon
{
/// A finished render on the disk. Does not change.
struct Render
{
    std::filesystem::path wav, receiptFile;
    Receipt receipt;
    std::int64_t firstFrame = 0;
    std::vector<std::uint64_t> inputHashes; ///< per frame of the result, see FrameHasher; 0: not known
};

/// One epoch on its way to the disk: what was fed, and what came back. The recorder's writer thread only.
/// After a Problem nothing may follow but destruction, which leaves no file behind.
class RenderFile
{
public:
    /// Input without any result is not kept beyond this: nobody can be waiting for it.
    static constexpr std::int64_t kMaxUnansweredFrames = kMaxLatencyFrames + 100;

    RenderFile(std::filesystem::path folder, int rate, std::int64_t startSample, bool offline);

    void setConfig(const Config& config);
    void setEngine(const EngineFacts& facts);

    /// [2, frame length] of the next frame.
    std::optional<Problem> feed(std::int64_t frame, const std::vector<float>& audio, const WireLaneValues& lanes);

    /// [2, frame length] of result. Frames that were left out become silence; repeats are ignored.
    std::optional<Problem> deliver(std::int64_t frame, const std::vector<float>& audio);

    /// `frame` is the first one that does not exist. A last frame that the input filled only in part is not one that
    /// later input can be compared with.
    void end(std::int64_t frame, bool lastIsWhole);
    bool isComplete() const { return endFrame && nextResult >= *endFrame; }
    std::int64_t framesDelivered() const { return nextResult - firstFrame; }
    std::uint64_t bytes() const; ///< on the disk, about

    /// Names the files. Needs framesDelivered() > 0.
    Result<Render> finish();

private:
    struct FedFrame
    {
        FrameHasher hasher;
        WireLaneValues lanes;
    };

    std::optional<Problem> appendResult(const std::vector<float>& audio);
    void recordInput(const FedFrame& frame);
    Receipt completeReceipt(std::string source, std::string result) const;

    const std::filesystem::path folder;
    const FrameGrid grid;
    const std::int64_t firstFrame;
    const bool startsInsideFrame;
    LaneSelection selection;
    Receipt receipt; ///< grows
    bool hasConfig = false, hasEngine = false;

    WavWriter wav;
    PlanarHash sourceHash, resultHash;
    Sha256 lanesHash;
    std::vector<std::pair<float, float>> laneRanges;
    std::vector<std::uint64_t> inputHashes;
    std::vector<FedFrame> waiting; ///< fed before the engine had said which lanes it acts on
    std::int64_t nextSource, nextResult;
    std::optional<std::int64_t> endFrame;
    bool endsInsideFrame = true;
};
} // namespace demon
