// SPDX-License-Identifier: AGPL-3.0-or-later
#include "ReferenceKeeper.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "SavedAudio.h"
#include "demon/timebase.h"
#include "services/AudioFile.h"
#include "services/Resampler.h"
#include "services/Sha256.h"

namespace demon
{
namespace
{
constexpr std::size_t kMostKnown = 8;

/// Read, cut and brought to one rate, so that its name does not depend on the host's.
Result<std::shared_ptr<const ReferenceAudio>> readReference(const std::filesystem::path& file)
{
    Result<AudioClip> read = readAudioFile(file);
    if (!hasFailed(read))
        read = resampled(std::get<AudioClip>(read), kModelRate); // it is heard by the model only
    if (const Problem* problem = std::get_if<Problem>(&read))
        return *problem;
    const AudioClip& clip = std::get<AudioClip>(read);
    const auto most = static_cast<std::int64_t>(ReferenceKeeper::kMostSeconds * kModelRate);
    const std::int64_t samples = std::min(clip.samples, most);
    if (samples == 0)
        return Problem{"E_AUDIO_FILE", "the file holds no audio"};
    auto reference = std::make_shared<ReferenceAudio>();
    reference->rate = kModelRate;
    for (int channel = 0; channel < 2; ++channel)
        reference->audio.insert(reference->audio.end(), clip.channel(channel), clip.channel(channel) + samples);
    reference->hash = referenceHash(kModelRate, reference->audio.data(), samples);
    return std::shared_ptr<const ReferenceAudio>(reference);
}
} // namespace

ReferenceKeeper::ReferenceKeeper(std::function<void(Known)> provideAudio,
                                 std::function<void(ReferenceKind, const ReferenceChoice&)> chooseReference)
    : provide(std::move(provideAudio)), choose(std::move(chooseReference))
{
}

ReferenceKeeper::~ReferenceKeeper()
{
    for (std::thread& reader : readers)
        if (reader.joinable())
            reader.join();
}

void ReferenceKeeper::load(ReferenceKind kind, const std::filesystem::path& file)
{
    const auto place = static_cast<std::size_t>(kind);
    std::thread old;
    {
        const std::lock_guard lock(mutex);
        if (reads[place])
            return;
        reads[place] = true;
        problems[place].reset();
        old = std::move(readers[place]);
    }
    if (old.joinable())
        old.join(); // has ended
    const std::lock_guard lock(mutex);
    readers[place] = std::thread(
        [this, kind, place, file]
        {
            const auto read = readReference(file);
            if (const auto* audio = std::get_if<std::shared_ptr<const ReferenceAudio>>(&read))
            {
                add(*audio);
                choose(kind, {file.filename().string(), (*audio)->hash});
            }
            const std::lock_guard readerLock(mutex);
            reads[place] = false;
            if (const Problem* problem = std::get_if<Problem>(&read))
                problems[place] = *problem;
        });
}

bool ReferenceKeeper::isLoading(ReferenceKind kind) const
{
    const std::lock_guard lock(mutex);
    return reads[static_cast<std::size_t>(kind)];
}

std::optional<Problem> ReferenceKeeper::problem(ReferenceKind kind) const
{
    const std::lock_guard lock(mutex);
    return problems[static_cast<std::size_t>(kind)];
}

void ReferenceKeeper::acknowledge()
{
    const std::lock_guard lock(mutex);
    problems = {};
}

bool ReferenceKeeper::has(const std::string& hash) const
{
    const std::lock_guard lock(mutex);
    return find(hash) != nullptr;
}

/// The mutex is held.
std::shared_ptr<const ReferenceAudio> ReferenceKeeper::find(const std::string& hash) const
{
    const auto found = std::find_if(known.begin(), known.end(), [&](const auto& one) { return one->hash == hash; });
    return found == known.end() ? nullptr : *found;
}

void ReferenceKeeper::add(std::shared_ptr<const ReferenceAudio> audio)
{
    const std::lock_guard lock(mutex);
    if (find(audio->hash) == nullptr)
        known.push_back(std::move(audio));
    if (known.size() > kMostKnown)
        known.erase(known.begin());
    provide(known);
}

void ReferenceKeeper::addXml(juce::XmlElement& parent, const Settings& settings)
{
    std::vector<std::shared_ptr<const ReferenceAudio>> wanted;
    {
        const std::lock_guard lock(mutex);
        for (const std::string& hash : {settings.config.timbre, settings.config.structure})
            if (const auto audio = find(hash); audio != nullptr && (wanted.empty() || wanted.front() != audio))
                wanted.push_back(audio);
    }
    for (const auto& audio : wanted)
    {
        juce::XmlElement* xml = parent.createNewChildElement("AUDIO");
        xml->setAttribute("hash", juce::String(audio->hash));
        xml->setAttribute("rate", audio->rate);
        xml->setAttribute("samples", juce::String(static_cast<juce::int64>(audio->samples())));
        xml->addTextElement(savedAudio::pack(audio->audio.data(), audio->audio.size()));
    }
}

/// What does not have the content that its hash names is left out: the settings then name a reference that is missing.
void ReferenceKeeper::fromXml(const juce::XmlElement& parent)
{
    for (const juce::XmlElement* xml : parent.getChildWithTagNameIterator("AUDIO"))
    {
        auto audio = std::make_shared<ReferenceAudio>();
        audio->rate = xml->getIntAttribute("rate");
        audio->hash = xml->getStringAttribute("hash").toStdString();
        const juce::int64 samples = xml->getStringAttribute("samples").getLargeIntValue();
        const bool isPlausible = isSupportedRate(audio->rate) && samples > 0 && samples <= kMaxReferenceSamples;
        if (isPlausible &&
            savedAudio::unpack(xml->getAllSubText(), 2 * static_cast<std::size_t>(samples), audio->audio) &&
            referenceHash(audio->rate, audio->audio.data(), samples) == audio->hash)
            add(std::move(audio));
    }
}
} // namespace demon
