// SPDX-License-Identifier: AGPL-3.0-or-later
#include "AudioFile.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <new>
#include <system_error>

#include "SoundFile.h"

namespace demon
{
namespace
{
namespace fs = std::filesystem;

constexpr sf_count_t kSamplesAtOnce = 16384;

Problem unusable(const fs::path& path, const std::string& reason)
{
    return {"E_AUDIO_FILE", path.filename().string() + " " + reason};
}

std::string oneDecimal(double value)
{
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", value);
    return text;
}

void addNote(std::string& note, const std::string& sentence) { note += (note.empty() ? "" : "; ") + sentence; }

/// The file's first two channels, or its only one twice.
struct Channels
{
    std::vector<float> left, right;
    std::int64_t notFinite = 0;

    void append(const float* interleaved, sf_count_t count, int width)
    {
        for (sf_count_t i = 0; i < count; ++i)
        {
            const float* const sample = interleaved + i * width;
            left.push_back(settled(sample[0]));
            right.push_back(settled(sample[width > 1 ? 1 : 0]));
        }
    }

private:
    float settled(float sample)
    {
        if (std::isfinite(sample))
            return sample;
        ++notFinite;
        return 0.0f;
    }
};

Result<AudioClip> readOpenFile(SNDFILE* file, const SF_INFO& info, const fs::path& path, const AudioLimits& limits)
{
    const auto limit = static_cast<std::size_t>(limits.maxSeconds * info.samplerate);
    std::vector<float> interleaved(static_cast<std::size_t>(kSamplesAtOnce * info.channels));
    Channels channels;
    while (const sf_count_t count = std::max<sf_count_t>(0, sf_readf_float(file, interleaved.data(), kSamplesAtOnce)))
    {
        channels.append(interleaved.data(), count, info.channels);
        if (channels.left.size() > limit)
            return unusable(path, "is longer than " + oneDecimal(limits.maxSeconds) +
                                      " s, the most that can be taken: cut it and drop it again");
    }
    if (channels.left.empty())
        return unusable(path, "holds no audio: choose another file");

    AudioClip clip;
    clip.rate = info.samplerate;
    clip.samples = static_cast<std::int64_t>(channels.left.size());
    clip.audio = std::move(channels.left);
    clip.audio.insert(clip.audio.end(), channels.right.begin(), channels.right.end());
    if (info.channels > 2)
        addNote(clip.note, "the first two of " + std::to_string(info.channels) + " channels were taken");
    if (channels.notFinite > 0)
        addNote(clip.note, std::to_string(channels.notFinite) + " invalid samples were replaced by silence");
    if (info.frames > clip.samples && info.frames < SF_COUNT_MAX) // the maximum: the length is not known
        addNote(clip.note,
                "the file ends early, after " + oneDecimal(static_cast<double>(clip.samples) / info.samplerate) + " s");
    return clip;
}
} // namespace

Result<AudioClip> readAudioFile(const fs::path& path, const AudioLimits& limits)
{
    std::error_code failure;
    if (!fs::is_regular_file(path, failure)) // a pipe or a device could block for ever
        return unusable(path, fs::exists(path, failure) ? "is not a file: drop an audio file"
                                                        : "does not exist: choose another file");
    SF_INFO info{};
    const SoundFile file = openSoundFile(path, SFM_READ, info);
    if (file == nullptr)
        return unusable(path, std::string("cannot be read as audio (") + sf_strerror(nullptr) +
                                  "): convert it to WAV or FLAC and drop it again");
    if (info.channels < 1 || info.samplerate < limits.minRate || info.samplerate > limits.maxRate)
        return unusable(path, "has " + std::to_string(info.channels) + " channels at " +
                                  std::to_string(info.samplerate) + " Hz: convert it to stereo at 48000 Hz");
    try
    {
        return readOpenFile(file.get(), info, path, limits);
    }
    catch (const std::bad_alloc&)
    {
        return unusable(path, "does not fit into memory: cut it and drop it again");
    }
}
} // namespace demon
