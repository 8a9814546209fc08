// SPDX-License-Identifier: AGPL-3.0-or-later
//
//   <CLIP rate="48000" first="0" frames="250" name="riff.wav">
//     <AUDIO>...</AUDIO>                        [2, frames * rate / 25], SavedAudio.h
//     <LANE id="denoise" drawn="0" value="0.6"/>  a lane that does not move
//     <LANE id="guidance" drawn="1">...           one that does: [frames], SavedAudio.h
//       <RECORD value="1"/>                       what the host played, where it differs
//     </LANE>
//   </CLIP>
#include "ClipKeeper.h"

#include <algorithm>
#include <utility>

#include "SavedAudio.h"
#include "services/AudioFile.h"
#include "services/Resampler.h"

namespace demon
{
namespace
{
constexpr std::int64_t kMostFrames = 20 * 60 * kFramesPerSecond; // until the engine has said what it takes

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

AudioClip audioOf(const ClipAudio& clip)
{
    return {clip.rate, static_cast<std::int64_t>(clip.samples()), clip.audio, {}};
}

std::shared_ptr<LaneTable> heldLanes(std::int64_t firstFrame, std::int64_t frames, const WireLaneValues& values)
{
    auto lanes = std::make_shared<LaneTable>(frames);
    lanes->begin(firstFrame);
    for (std::int64_t i = 0; i < frames; ++i)
        lanes->append(values);
    return lanes;
}

void valuesToXml(juce::XmlElement& xml, const std::vector<float>& values)
{
    if (std::all_of(values.begin(), values.end(), [&](float value) { return value == values.front(); }))
        xml.setAttribute("value", static_cast<double>(values.front()));
    else
        xml.addTextElement(savedAudio::pack(values.data(), values.size()));
}

void lanesToXml(juce::XmlElement& xml, const LaneTable& table)
{
    const std::vector<std::string> ids = wireLaneIds();
    for (std::size_t column = 0; column < kWireLaneCount; ++column)
    {
        juce::XmlElement* lane = xml.createNewChildElement("LANE");
        lane->setAttribute("id", juce::String(ids[column]));
        lane->setAttribute("drawn", table.isDrawn(column) ? 1 : 0);
        std::vector<float> values, recorded;
        for (std::int64_t frame = table.firstFrame(); frame < table.end(); ++frame)
        {
            values.push_back(table.at(column, frame));
            recorded.push_back(table.recordedAt(column, frame));
        }
        valuesToXml(*lane, values);
        if (recorded != values)
            valuesToXml(*lane->createNewChildElement("RECORD"), recorded);
    }
}

/// The values of one lane in all frames of a clip; an empty vector when they are damaged.
std::vector<float> valuesFromXml(const juce::XmlElement& xml, std::int64_t frames, const LaneInfo& info)
{
    std::vector<float> values;
    juce::String packed;
    for (const juce::XmlElement* child : xml.getChildIterator())
        if (child->isTextElement())
            packed << child->getText();
    if (xml.hasAttribute("value"))
        values.assign(static_cast<std::size_t>(frames), static_cast<float>(xml.getDoubleAttribute("value")));
    else if (!savedAudio::unpack(packed, static_cast<std::size_t>(frames), values))
        return {};
    for (float& value : values)
        value = settledLaneValue(info, std::isfinite(value) ? value : info.defaultValue);
    return values;
}

/// Lanes by their ids: what is missing, damaged or unknown here has its default.
std::shared_ptr<LaneTable> lanesFromXml(const juce::XmlElement& xml, std::int64_t firstFrame, std::int64_t frames)
{
    WireLaneValues defaults{};
    std::array<const LaneInfo*, kWireLaneCount> infos{};
    std::size_t next = 0;
    for (const LaneInfo& info : kLanes)
        if (isWireLane(info))
        {
            infos[next] = &info;
            defaults[next++] = info.defaultValue;
        }
    const auto table = heldLanes(firstFrame, frames, defaults);
    for (const juce::XmlElement* lane : xml.getChildWithTagNameIterator("LANE"))
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
        {
            if (lane->getStringAttribute("id") != infos[column]->id)
                continue;
            const std::vector<float> values = valuesFromXml(*lane, frames, *infos[column]);
            std::vector<float> recorded = values; // also of a project from before there was a record
            if (const juce::XmlElement* record = lane->getChildByName("RECORD"))
                if (std::vector<float> kept = valuesFromXml(*record, frames, *infos[column]); !kept.empty())
                    recorded = std::move(kept);
            for (std::size_t i = 0; i < values.size(); ++i)
            {
                const std::int64_t frame = firstFrame + static_cast<std::int64_t>(i);
                table->apply(
                    {0, static_cast<std::int32_t>(column), frame, frame + 1, values[i], recorded[i], false, 0});
            }
            if (!values.empty())
                table->setDrawn(column, lane->getBoolAttribute("drawn"));
        }
    return table;
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
    const std::int64_t limit = link.status().engine.clipLimit;
    withdraw(loop->offer(LoopClip::toCapture(limit > 0 ? std::min(limit, kMostFrames) : kMostFrames)));
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
    const std::int64_t limit = link.status().engine.clipLimit;
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
            const auto clip =
                clipOf(std::get<AudioClip>(audio), firstFrame, limit > 0 ? std::min(limit, kMostFrames) : kMostFrames);
            setClip({0, clip, heldLanes(firstFrame, clip->frames, lanes)}, file.filename().string());
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
    auto xml = std::make_unique<juce::XmlElement>("CLIP");
    xml->setAttribute("rate", kept.source->rate);
    xml->setAttribute("first", juce::String(kept.source->firstFrame));
    xml->setAttribute("frames", juce::String(kept.source->frames));
    xml->setAttribute("name", juce::String::fromUTF8(name.c_str()));
    xml->createNewChildElement("AUDIO")->addTextElement(packedAudio);
    lanesToXml(*xml, *kept.lanes);
    return xml;
}

void ClipKeeper::fromXml(const juce::XmlElement* xml)
{
    ClipSource restored;
    std::string itsName;
    std::optional<Problem> damage;
    if (xml != nullptr)
    {
        auto audio = std::make_shared<ClipAudio>();
        audio->rate = xml->getIntAttribute("rate");
        audio->firstFrame = xml->getStringAttribute("first").getLargeIntValue();
        audio->frames = xml->getStringAttribute("frames").getLargeIntValue();
        const juce::XmlElement* text = xml->getChildByName("AUDIO");
        const bool isPlausible = isSupportedRate(audio->rate) && audio->frames > 0 && audio->frames <= kMostFrames;
        if (isPlausible && text != nullptr &&
            savedAudio::unpack(text->getAllSubText(), 2 * audio->samples(), audio->audio))
        {
            restored.lanes = lanesFromXml(*xml, audio->firstFrame, audio->frames);
            restored.source = std::move(audio);
            itsName = xml->getStringAttribute("name").toStdString();
        }
        else
        {
            damage = Problem{"E_STATE", "the clip in this project is damaged: capture it again"};
        }
    }
    const std::lock_guard lock(mutex);
    setClip(std::move(restored), itsName);
    lastProblem = damage;
}
} // namespace demon
