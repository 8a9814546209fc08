// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "Problem.h"
#include "RenderFile.h"

namespace demon
{
/// How much the recorder may take.
struct RecorderLimits
{
    std::uint64_t diskBytes = std::uint64_t{2} << 30; ///< of all renders; one may take half of it
    std::size_t waitingBytes = std::size_t{64} << 20; ///< of memory, when the disk is slow
    bool keepsLive = true;                            ///< not only bounces and commits
};

/// Keeps what the engine has made: every epoch that is delivered in order (a stream's or a commit's) becomes a WAV of
/// 32-bit floats, named after its content, with a receipt beside it. It starts at the first sample of the epoch's first
/// frame.
///
/// What cannot be kept (a full disk, a slow one, a render larger than half the budget) is a problem to be shown and
/// never a reason to stop: the next epoch is tried again. Live renders that broke off before a second are not kept.
///
/// Threads: begin to closeAll belong to the link thread; they copy and never wait for the disk, for which there is a
/// writer thread. The constructor, the destructor (which waits for the writer: a second, at worst some) and limits
/// belong to the owner. The questions, acknowledge and flush may be called from any thread but the audio thread.
class RenderRecorder
{
public:
    explicit RenderRecorder(std::filesystem::path folder, RecorderLimits limits = {});
    ~RenderRecorder();
    RenderRecorder(const RenderRecorder&) = delete;
    RenderRecorder& operator=(const RenderRecorder&) = delete;

    /// What the open epochs and those that follow are made with. At every welcome, and whenever the configuration goes
    /// out; repeats cost nothing.
    void setEngine(const EngineFacts& facts);
    void setConfig(const Config& config);

    void begin(std::int32_t epoch, int rate, std::int64_t startSample, bool offline);
    void feed(std::int32_t epoch, std::int64_t frame, const std::vector<float>& audio, const WireLaneValues& lanes);
    void deliver(std::int32_t epoch, std::int64_t frame, const float* left, const float* right);

    /// The input ended before `frame`. The render is finished as soon as everything before it is delivered.
    void end(std::int32_t epoch, std::int64_t frame, bool lastFrameIsWhole = false);

    /// Nothing more will come: what there is is kept as an incomplete render. Nothing happens when it was complete.
    void close(std::int32_t epoch);
    void closeAll();

    /// The newest render that is still on the disk, or null.
    std::shared_ptr<const Render> lastRender() const;

    /// The newest that is complete and still on the disk, or null.
    std::shared_ptr<const Render> lastComplete() const;

    /// Why the last epoch could not be kept, until one could or the user knows. Code E_RENDER.
    std::optional<Problem> problem() const;
    void acknowledge();

    void setLimits(const RecorderLimits& wanted);

    /// Waits until everything that was said so far is on the disk.
    void flush();

private:
    using Job = std::function<void()>;
    struct OpenEpoch
    {
        std::int32_t id;
        std::size_t frameLength;
        bool isTooSlow = false;
    };

    OpenEpoch* findOpen(std::int32_t epoch);
    bool hasRoom(OpenEpoch& epoch);
    void post(Job job, std::size_t bytes = 0);
    void run();
    void write(std::int32_t epoch, const std::function<std::optional<Problem>(RenderFile&)>& step);
    void finish(std::int32_t epoch);
    void giveUp(std::int32_t epoch, const Problem& reason);
    RecorderLimits currentLimits() const;
    std::shared_ptr<const Render> stillThere(const std::shared_ptr<const Render>& one) const;

    const std::filesystem::path folder;

    std::optional<EngineFacts> saidEngine; ///< link thread: what was posted last
    std::optional<Config> saidConfig;      ///< link thread
    std::vector<OpenEpoch> open;           ///< link thread: those that were begun and not closed

    std::map<std::int32_t, std::unique_ptr<RenderFile>> files; ///< writer
    EngineFacts engine;                                        ///< writer
    Config config;                                             ///< writer

    mutable std::mutex mutex; ///< guards the rest
    std::condition_variable wake, idle;
    std::deque<std::pair<Job, std::size_t>> jobs; ///< with the bytes that each holds
    std::size_t waiting = 0;                      ///< bytes
    bool isBusy = false, quit = false;
    RecorderLimits limits;
    std::shared_ptr<const Render> newest, newestComplete;
    std::optional<Problem> lastProblem;

    std::thread thread; ///< last: it uses everything above
};
} // namespace demon
