// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ClipKeeper.h"

#include <algorithm>
#include <utility>

#include "ClipXml.h"
#include "SavedAudio.h"
#include "services/AudioFile.h"
#include "services/Resampler.h"

namespace demon
{
namespace
{
/// Whole frames, the last one filled up with silence.
std::shared_ptr<const ClipAudio> clipOf(const AudioClip& audio, std::int64_t firstFrame, std::int64_t mostFrames)
{
    auto clip = std::make_shared<ClipAudio>();
    clip->rate = audio.rate;
    clip->firstFrame = firstFrame;
    clip->frames = std::min(clip->grid().frameFrom(audio.samples), mostFrames);
    clip->audio.assign(2 * clip->samples(), 0.0f);
    const std::size_t count = std::min(static_cast<std::size_t>(audio.samples), clip->samples());
    for (int channel = 0; channel < 2; ++channel)
        std::copy_n(audio.channel(channel), count,
                    clip->audio.begin() +
                        static_cast<std::ptrdiff_t>(static_cast<std::size_t>(channel) * clip->samples()));
    return clip;
}

/// Of a clip: what the engine takes, once it has said so.
std::int64_t mostFrames(const LinkStatus& status)
{
    const std::int64_t limit = status.engine.clipLimit;
    return limit > 0 ? std::min(limit, kMostClipFrames) : kMostClipFrames;
}

AudioClip audioOf(const ClipAudio& clip)
{
    return {clip.rate, static_cast<std::int64_t>(clip.samples()), clip.audio, {}};
}
} // namespace

ClipKeeper::ClipKeeper(EngineLink& engineLink, EpochNumbers& epochNumbers) : link(engineLink), epochs(epochNumbers) {}

ClipKeeper::~ClipKeeper()
{
    if (reader.joinable())
        reader.join();
}

void ClipKeeper::remember()
{
    const std::lock_guard lock(mutex);
    rememberLocked();
}

/// The mutex is held. What the link knows of may be older than the last wish: epochs increase.
void ClipKeeper::rememberLocked()
{
    const ClipSource now = loop != nullptr ? link.clip() : ClipSource{};
    if (now.source == nullptr || now.epoch < kept.epoch)
        return;
    if (now.epoch == kept.epoch)
    {
        kept.lanes = now.lanes; // the source may be what was resampled for the loop
        return;
    }
    kept = now; // captured
    name.clear();
}

void ClipKeeper::attach(std::shared_ptr<Loop> next)
{
    const std::lock_guard lock(mutex);
    loop = std::move(next);
    drawings.clear();
    giveToLoop();
}

/// The mutex is held. The loop gets the clip at its rate; frames are the same at every rate. What is kept stays as it
/// was captured, so that no change of rate is ever heard twice.
void ClipKeeper::giveToLoop()
{
    if (loop == nullptr || kept.source == nullptr)
        return;
    std::shared_ptr<const ClipAudio> source = kept.source;
    if (source->rate != loop->rate)
    {
        const auto audio = resampled(audioOf(*source), loop->rate);
        if (const Problem* problem = std::get_if<Problem>(&audio))
        {
            lastProblem = *problem;
            return;
        }
        source = clipOf(std::get<AudioClip>(audio), source->firstFrame, source->frames);
    }
    kept.epoch = epochs.next();
    withdraw(loop->offer(LoopClip::given(kept.epoch, *kept.lanes)));
    link.openClip(kept.epoch, std::move(source), *kept.lanes);
}

/// The audio thread never saw it: nobody else ends its epoch.
void ClipKeeper::withdraw(const std::shared_ptr<LoopClip>& displaced)
{
    if (displaced != nullptr && displaced->purpose == LoopClip::Purpose::given)
        link.closeClip(displaced->epoch);
}

void ClipKeeper::capture()
{
    const std::lock_guard lock(mutex);
    if (loop == nullptr)
        return;
    ++generation;
    lastProblem.reset();
    withdraw(loop->offer(LoopClip::toCapture(mostFrames(link.status()))));
}

void ClipKeeper::finish()
{
    const std::lock_guard lock(mutex);
    if (loop != nullptr)
        loop->requestCaptureEnd(LoopClip::Request::finish);
}

void ClipKeeper::cancel()
{
    const std::lock_guard lock(mutex);
    if (loop != nullptr)
        loop->requestCaptureEnd(LoopClip::Request::cancel);
}

void ClipKeeper::clear()
{
    const std::lock_guard lock(mutex);
    setClip({}, {});
}

/// The mutex is held.
void ClipKeeper::setClip(ClipSource source, const std::string& itsName)
{
    ++generation;
    kept = std::move(source);
    name = itsName;
    lastProblem.reset();
    drawings.clear();
    if (kept.source != nullptr)
        return giveToLoop();
    kept.epoch = epochs.next();
    if (loop != nullptr)
        withdraw(loop->offer(LoopClip::nothing()));
}

void ClipKeeper::load(const std::filesystem::path& file, std::int64_t firstFrame, const WireLaneValues& lanes)
{
    std::thread old;
    {
        const std::lock_guard lock(mutex);
        if (reads)
            return;
        reads = true;
        lastProblem.reset();
        old = std::move(reader);
    }
    if (old.joinable())
        old.join(); // has ended
    const std::lock_guard lock(mutex);
    const int wanted = generation;
    const int rate = loop != nullptr ? loop->rate : kModelRate;
    const std::int64_t limit = mostFrames(link.status());
    reader = std::thread(
        [this, file, firstFrame, lanes, wanted, rate, limit]
        {
            Result<AudioClip> audio = readAudioFile(file);
            if (!hasFailed(audio))
                audio = resampled(std::get<AudioClip>(audio), rate);
            const std::lock_guard readerLock(mutex);
            reads = false;
            if (wanted != generation)
                return;
            if (const Problem* problem = std::get_if<Problem>(&audio))
            {
                lastProblem = *problem;
                return;
            }
            const auto clip = clipOf(std::get<AudioClip>(audio), firstFrame, limit);
            setClip({0, clip, std::make_shared<LaneTable>(LaneTable::held(firstFrame, clip->frames, lanes))},
                    file.filename().string());
        });
}

bool ClipKeeper::isLoading() const
{
    const std::lock_guard lock(mutex);
    return reads;
}

std::optional<Problem> ClipKeeper::problem() const
{
    const std::lock_guard lock(mutex);
    return lastProblem;
}

void ClipKeeper::acknowledge()
{
    const std::lock_guard lock(mutex);
    lastProblem.reset();
}

std::string ClipKeeper::fileName() const
{
    const std::lock_guard lock(mutex);
    return name;
}

void ClipKeeper::draw(std::size_t wireColumn, std::int64_t first, const std::vector<float>& values)
{
    const std::lock_guard lock(mutex);
    LaneDrawing drawing;
    drawing.epoch = link.clip().epoch;
    drawing.column = static_cast<std::int32_t>(wireColumn);
    if (drawing.epoch == 0)
        return;
    if (values.empty())
        drawings.push_back(drawing);
    for (std::size_t at = 0; at < values.size(); at += LaneDrawing::kMostFrames)
    {
        const std::size_t count = std::min(LaneDrawing::kMostFrames, values.size() - at);
        drawing.first = first + static_cast<std::int64_t>(at);
        drawing.count = static_cast<std::int32_t>(count);
        std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(at), count, drawing.values.begin());
        drawings.push_back(drawing);
    }
    flushDrawings();
}

void ClipKeeper::flushDrawings()
{
    std::size_t sent = 0;
    while (loop != nullptr && sent < drawings.size() && loop->draw(drawings[sent]))
        ++sent;
    drawings.erase(drawings.begin(), drawings.begin() + static_cast<std::ptrdiff_t>(sent));
}

void ClipKeeper::tidy()
{
    const std::lock_guard lock(mutex);
    if (loop == nullptr)
        return;
    loop->tidy();
    flushDrawings();
}

ClipSource ClipKeeper::clip() const
{
    const std::lock_guard lock(mutex);
    const ClipSource now = loop != nullptr ? link.clip() : ClipSource{};
    return now.source != nullptr && now.epoch >= kept.epoch ? now : kept;
}

std::unique_ptr<juce::XmlElement> ClipKeeper::toXml()
{
    const std::lock_guard lock(mutex);
    rememberLocked();
    if (kept.source == nullptr)
        return nullptr;
    if (packedSource.lock() != kept.source)
    {
        packedAudio = savedAudio::pack(kept.source->audio.data(), kept.source->audio.size());
        packedSource = kept.source;
    }
    return clipToXml({kept, name}, packedAudio);
}

void ClipKeeper::fromXml(const juce::XmlElement* xml)
{
    NamedClip restored;
    std::optional<Problem> damage;
    if (xml != nullptr)
    {
        restored = clipFromXml(*xml);
        if (restored.clip.source == nullptr)
            damage = Problem{"E_STATE", "the clip in this project is damaged: capture it again"};
    }
    const std::lock_guard lock(mutex);
    setClip(std::move(restored.clip), restored.name);
    lastProblem = damage;
}
} // namespace demon
