// SPDX-License-Identifier: AGPL-3.0-or-later
#include "RenderRecorder.h"

#include <algorithm>
#include <exception>
#include <system_error>
#include <utility>

#include "RenderFolder.h"
#include "WholeFile.h"

namespace demon
{
namespace
{
constexpr std::int64_t kShortestBrokenOff = kFramesPerSecond; // frames
} // namespace

RenderRecorder::RenderRecorder(std::filesystem::path inFolder, RecorderLimits wanted)
    : folder(std::move(inFolder)), limits(wanted), thread([this] { run(); })
{
    post([this] { renderFolder::sweep(folder); });
}

RenderRecorder::~RenderRecorder()
{
    closeAll();
    {
        const std::lock_guard lock(mutex);
        quit = true;
    }
    wake.notify_all();
    thread.join();
}

// --- link thread -----------------------------------------------------------------------------------------------------

void RenderRecorder::setEngine(const EngineFacts& facts)
{
    if (saidEngine && *saidEngine == facts)
        return;
    saidEngine = facts;
    post(
        [this, facts]
        {
            engine = facts;
            for (auto& [id, file] : files)
                file->setEngine(facts);
        });
}

void RenderRecorder::setConfig(const Config& current)
{
    if (saidConfig && *saidConfig == current)
        return;
    saidConfig = current;
    post(
        [this, current]
        {
            config = current;
            for (auto& [id, file] : files)
                file->setConfig(current);
        });
}

void RenderRecorder::begin(std::int32_t epoch, int rate, std::int64_t startSample, bool offline)
{
    if (!offline && !currentLimits().keepsLive)
        return;
    open.push_back({epoch, static_cast<std::size_t>(FrameGrid::forRate(rate).length)});
    post(
        [=]
        {
            if (auto problem = makeFolder(folder))
                return giveUp(epoch, *problem);
            auto file = std::make_unique<RenderFile>(folder, rate, startSample, offline);
            file->setConfig(config);
            if (!engine.checkpoint.empty())
                file->setEngine(engine);
            files[epoch] = std::move(file);
        });
}

RenderRecorder::OpenEpoch* RenderRecorder::findOpen(std::int32_t epoch)
{
    const auto found = std::find_if(open.begin(), open.end(), [&](const OpenEpoch& one) { return one.id == epoch; });
    return found == open.end() || found->isTooSlow ? nullptr : &*found;
}

/// False when the disk has fallen too far behind: the epoch is given up.
bool RenderRecorder::hasRoom(OpenEpoch& epoch)
{
    {
        const std::lock_guard lock(mutex);
        if (waiting <= limits.waitingBytes)
            return true;
    }
    epoch.isTooSlow = true;
    post([this, id = epoch.id] { giveUp(id, {"E_RENDER", "the disk is too slow"}); });
    return false;
}

void RenderRecorder::feed(std::int32_t epoch, std::int64_t frame, const std::vector<float>& audio,
                          const WireLaneValues& lanes)
{
    OpenEpoch* const one = findOpen(epoch);
    if (one != nullptr && hasRoom(*one))
        post([=] { write(epoch, [&](RenderFile& file) { return file.feed(frame, audio, lanes); }); },
             audio.size() * sizeof(float));
}

void RenderRecorder::deliver(std::int32_t epoch, std::int64_t frame, const float* left, const float* right)
{
    OpenEpoch* const one = findOpen(epoch);
    if (one == nullptr || !hasRoom(*one))
        return;
    std::vector<float> audio(left, left + one->frameLength);
    audio.insert(audio.end(), right, right + one->frameLength);
    const std::size_t bytes = audio.size() * sizeof(float);
    post([this, epoch, frame, audio = std::move(audio)]
         { write(epoch, [&](RenderFile& file) { return file.deliver(frame, audio); }); },
         bytes);
}

void RenderRecorder::end(std::int32_t epoch, std::int64_t frame, bool lastFrameIsWhole)
{
    if (findOpen(epoch) == nullptr)
        return;
    post(
        [=]
        {
            write(epoch,
                  [&](RenderFile& file)
                  {
                      file.end(frame, lastFrameIsWhole);
                      return std::nullopt;
                  });
        });
}

void RenderRecorder::close(std::int32_t epoch)
{
    const auto found = std::find_if(open.begin(), open.end(), [&](const OpenEpoch& one) { return one.id == epoch; });
    if (found == open.end())
        return;
    open.erase(found);
    post([=] { finish(epoch); });
}

void RenderRecorder::closeAll()
{
    while (!open.empty())
        close(open.front().id);
}

void RenderRecorder::post(Job job, std::size_t bytes)
{
    {
        const std::lock_guard lock(mutex);
        jobs.emplace_back(std::move(job), bytes);
        waiting += bytes;
    }
    wake.notify_one();
}

// --- any thread ------------------------------------------------------------------------------------------------------

std::shared_ptr<const Render> RenderRecorder::lastRender() const { return stillThere(newest); }

std::shared_ptr<const Render> RenderRecorder::lastComplete() const { return stillThere(newestComplete); }

/// `one` of the renders that the mutex guards, or null when its file has gone.
std::shared_ptr<const Render> RenderRecorder::stillThere(const std::shared_ptr<const Render>& one) const
{
    std::shared_ptr<const Render> render;
    {
        const std::lock_guard lock(mutex);
        render = one;
    }
    std::error_code failure;
    return render != nullptr && std::filesystem::exists(render->wav, failure) ? render : nullptr;
}

std::optional<Problem> RenderRecorder::problem() const
{
    const std::lock_guard lock(mutex);
    return lastProblem;
}

void RenderRecorder::acknowledge()
{
    const std::lock_guard lock(mutex);
    lastProblem.reset();
}

void RenderRecorder::setLimits(const RecorderLimits& wanted)
{
    const std::lock_guard lock(mutex);
    limits = wanted;
}

RecorderLimits RenderRecorder::currentLimits() const
{
    const std::lock_guard lock(mutex);
    return limits;
}

void RenderRecorder::flush()
{
    std::unique_lock lock(mutex);
    idle.wait(lock, [this] { return jobs.empty() && !isBusy; });
}

// --- writer thread ---------------------------------------------------------------------------------------------------

void RenderRecorder::run()
{
    std::unique_lock lock(mutex);
    while (true)
    {
        wake.wait(lock, [this] { return quit || !jobs.empty(); });
        if (jobs.empty())
            return;
        auto [job, bytes] = std::move(jobs.front());
        jobs.pop_front();
        isBusy = true;
        lock.unlock();
        try
        {
            job();
        }
        catch (const std::exception& failure) // no memory; the epoch will miss a frame and be given up
        {
            const std::lock_guard again(mutex);
            lastProblem = Problem{"E_RENDER", std::string("a render could not be kept: ") + failure.what()};
        }
        job = nullptr; // frees its audio outside the lock
        lock.lock();
        waiting -= bytes;
        isBusy = false;
        if (jobs.empty())
            idle.notify_all();
    }
}

/// One step of an epoch's file; finishes it when that was the last one.
void RenderRecorder::write(std::int32_t epoch, const std::function<std::optional<Problem>(RenderFile&)>& step)
{
    const auto found = files.find(epoch);
    if (found == files.end())
        return;
    if (auto problem = step(*found->second))
        return giveUp(epoch, *problem);
    if (found->second->isComplete())
        return finish(epoch);
    if (found->second->bytes() > currentLimits().diskBytes / 2)
        finish(epoch);
}

void RenderRecorder::finish(std::int32_t epoch)
{
    const auto found = files.find(epoch);
    if (found == files.end())
        return;
    RenderFile& file = *found->second;
    const bool isWorthIt =
        file.isComplete() ? file.framesDelivered() > 0 : file.framesDelivered() >= kShortestBrokenOff;
    if (!isWorthIt)
    {
        files.erase(found);
        return;
    }
    auto result = file.finish();
    if (const auto* problem = std::get_if<Problem>(&result))
        return giveUp(epoch, *problem);
    files.erase(found);
    const auto render = std::make_shared<const Render>(std::get<Render>(std::move(result)));
    renderFolder::makeRoom(folder, currentLimits().diskBytes, render->wav);
    const std::lock_guard lock(mutex);
    newest = render;
    if (render->receipt.isComplete)
        newestComplete = render;
    lastProblem.reset();
}

void RenderRecorder::giveUp(std::int32_t epoch, const Problem& reason)
{
    files.erase(epoch);
    const std::lock_guard lock(mutex);
    lastProblem = Problem{"E_RENDER", "this render is not kept (playing goes on): " + reason.text};
}
} // namespace demon
