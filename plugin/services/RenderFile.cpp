// SPDX-License-Identifier: AGPL-3.0-or-later
#include "RenderFile.h"

#include <algorithm>

#include "RenderFolder.h"
#include "WholeFile.h"

namespace demon
{
RenderFile::RenderFile(std::filesystem::path inFolder, int rate, std::int64_t startSample, bool offline)
    : folder(std::move(inFolder)), grid(FrameGrid::forRate(rate)), firstFrame(grid.frameOf(startSample)),
      startsInsideFrame(grid.offsetOf(startSample) != 0), wav(folder / "render", rate), sourceHash(folder / "source"),
      resultHash(folder / "result"), nextSource(firstFrame), nextResult(firstFrame)
{
    receipt.rate = rate;
    receipt.position = grid.firstSampleOf(firstFrame);
    receipt.isOffline = offline;
}

void RenderFile::setConfig(const Config& config)
{
    receipt.changes += hasConfig && config != receipt.config ? 1 : 0;
    receipt.config = config;
    hasConfig = true;
}

void RenderFile::setEngine(const EngineFacts& facts)
{
    receipt.changes += hasEngine && !(facts == receipt.engine) ? 1 : 0;
    receipt.engine = facts;
    if (hasEngine)
        return;
    hasEngine = true;
    selection = LaneSelection::of(facts.lanes).value_or(LaneSelection());
    for (const FedFrame& frame : waiting)
        recordInput(frame);
    waiting.clear();
}

std::optional<Problem> RenderFile::feed(std::int64_t frame, const std::vector<float>& audio,
                                        const WireLaneValues& lanes)
{
    if (frame != nextSource)
        return Problem{"E_RENDER", "a part of the input is missing"};
    if (nextSource - nextResult > kMaxUnansweredFrames)
        return Problem{"E_RENDER", "the engine does not answer"};
    ++nextSource;
    const auto length = static_cast<std::size_t>(grid.length);
    FedFrame fed{{}, lanes};
    fed.hasher.append(audio.data(), audio.data() + length, length);
    if (hasEngine)
        recordInput(fed);
    else
        waiting.push_back(fed);
    return sourceHash.append(audio.data(), audio.data() + length, length);
}

void RenderFile::recordInput(const FedFrame& frame)
{
    const WireLaneValues lanes = selection.pick(frame.lanes);
    lanesHash.append(lanes.data(), selection.size());
    const bool isPartial = inputHashes.empty() && startsInsideFrame;
    inputHashes.push_back(isPartial ? 0 : frame.hasher.finish(lanes.data(), selection.size()));
    if (laneRanges.empty())
        for (std::size_t i = 0; i < selection.size(); ++i)
            laneRanges.emplace_back(lanes[i], lanes[i]);
    for (std::size_t i = 0; i < selection.size(); ++i)
        laneRanges[i] = {std::min(laneRanges[i].first, lanes[i]), std::max(laneRanges[i].second, lanes[i])};
}

std::optional<Problem> RenderFile::deliver(std::int64_t frame, const std::vector<float>& audio)
{
    const std::vector<float> silence(nextResult < frame ? audio.size() : 0, 0.0f);
    while (nextResult < frame)
    {
        ++receipt.missingFrames;
        if (auto problem = appendResult(silence))
            return problem;
    }
    return frame < nextResult ? std::nullopt : appendResult(audio);
}

std::optional<Problem> RenderFile::appendResult(const std::vector<float>& audio)
{
    ++nextResult;
    const float *const left = audio.data(), *const right = left + grid.length;
    if (auto problem = wav.append(left, right, grid.length))
        return problem;
    return resultHash.append(left, right, static_cast<std::size_t>(grid.length));
}

void RenderFile::end(std::int64_t frame, bool lastIsWhole)
{
    endFrame = frame;
    endsInsideFrame = !lastIsWhole;
}

std::uint64_t RenderFile::bytes() const
{
    return static_cast<std::uint64_t>(4 * grid.length) *
           static_cast<std::uint64_t>(3 * framesDelivered() + (nextSource - firstFrame));
}

Receipt RenderFile::completeReceipt(std::string source, std::string result) const
{
    Receipt complete = receipt;
    complete.samples = wav.samples();
    complete.isComplete = isComplete() && receipt.missingFrames == 0;
    complete.sourceSha256 = std::move(source);
    complete.lanesSha256 = lanesHash.hex();
    complete.resultSha256 = std::move(result);
    for (std::size_t i = 0; i < laneRanges.size(); ++i)
        complete.lanes.emplace_back(receipt.engine.lanes[i], describeRange(laneRanges[i].first, laneRanges[i].second));
    return complete;
}

Result<Render> RenderFile::finish()
{
    auto source = sourceHash.finish(), result = resultHash.finish();
    for (const auto* hash : {&source, &result})
        if (hasFailed(*hash))
            return std::get<Problem>(*hash);

    Render render;
    render.receipt = completeReceipt(std::get<std::string>(source), std::get<std::string>(result));
    render.firstFrame = firstFrame;
    render.wav = renderFolder::wavOf(folder, render.receipt.resultSha256);
    render.receiptFile = renderFolder::receiptOf(render.wav);
    render.inputHashes = inputHashes;
    render.inputHashes.resize(static_cast<std::size_t>(framesDelivered()), 0);
    if (endFrame && nextResult == *endFrame && endsInsideFrame)
        render.inputHashes.back() = 0;
    if (auto problem = wav.finish(render.wav))
        return *problem;
    if (auto problem = writeWholeFile(render.receiptFile, toJson(render.receipt)))
        return *problem;
    return render;
}
} // namespace demon
