// SPDX-License-Identifier: AGPL-3.0-or-later
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <sys/stat.h>
#include <vector>

#include "TemporaryFolder.h"
#include "catch.h"
#include "services/AudioFile.h"
#include "services/Resampler.h"
#include "services/SoundFile.h"
#include "services/WavWriter.h"
#include "services/WholeFile.h"

using namespace demon;

/// libsndfile 1.2.0 does not free what libvorbis has when it refuses a damaged Ogg file. Read by LeakSanitizer.
extern "C" const char* __lsan_default_suppressions() { return "leak:vorbis_info_init\n"; }

namespace
{
constexpr double kPi = 3.14159265358979323846;

/// [2, samples] of noise in -0.5..0.5.
std::vector<float> noise(std::int64_t samples)
{
    std::mt19937 random(3);
    std::uniform_real_distribution<float> values(-0.5f, 0.5f);
    std::vector<float> audio(static_cast<std::size_t>(2 * samples));
    for (float& value : audio)
        value = values(random);
    return audio;
}

/// Writes interleaved samples in any format of libsndfile's.
void writeFile(const std::filesystem::path& path, int format, int rate, int channels,
               const std::vector<float>& interleaved)
{
    SF_INFO info{};
    info.format = format;
    info.samplerate = rate;
    info.channels = channels;
    const SoundFile file = openSoundFile(path, SFM_WRITE, info);
    REQUIRE(file != nullptr);
    sf_write_float(file.get(), interleaved.data(), static_cast<sf_count_t>(interleaved.size()));
}

AudioClip readGood(const std::filesystem::path& path, const AudioLimits& limits = {})
{
    auto result = readAudioFile(path, limits);
    if (const auto* problem = std::get_if<Problem>(&result))
        FAIL(problem->text);
    return std::get<AudioClip>(std::move(result));
}

Problem readBad(const std::filesystem::path& path, const AudioLimits& limits = {})
{
    const auto result = readAudioFile(path, limits);
    REQUIRE(hasFailed(result));
    const Problem problem = std::get<Problem>(result);
    CHECK(problem.code == "E_AUDIO_FILE");
    return problem;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
} // namespace

TEST_CASE("what is written as WAV is read with the same bits, and equal audio gives equal files")
{
    const TemporaryFolder folder;
    const auto audio = noise(50'001);
    REQUIRE(!writeWavFile(folder / "new folder/a.wav", 44100, audio.data(), 50'001));
    REQUIRE(!writeWavFile(folder / "new folder/b.wav", 44100, audio.data(), 50'001));
    const AudioClip clip = readGood(folder / "new folder/a.wav");
    CHECK(clip.rate == 44100);
    CHECK(clip.samples == 50'001);
    CHECK((clip.audio == audio));
    CHECK(clip.note.empty());
    CHECK((readWholeFile(folder / "new folder/a.wav") == readWholeFile(folder / "new folder/b.wav")));
    for (const auto& entry : std::filesystem::directory_iterator(folder / "new folder"))
        CHECK(entry.path().extension() == ".wav"); // no part is left
}

TEST_CASE("FLAC and Ogg are read, mono on both sides")
{
    const TemporaryFolder folder;
    std::vector<float> sine(48000);
    for (std::size_t i = 0; i < sine.size(); ++i)
        sine[i] = 0.5f * static_cast<float>(std::sin(2.0 * kPi * 440.0 * static_cast<double>(i) / 48000.0));
    struct Kind
    {
        const char* name;
        int format;
        float tolerance; // 16 bits; what Vorbis does to a sine at its usual quality
    };
    for (const Kind& kind : {Kind{"a.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 3.1e-5f},
                             Kind{"a.ogg", SF_FORMAT_OGG | SF_FORMAT_VORBIS, 0.02f}})
    {
        INFO(kind.name);
        writeFile(folder / kind.name, kind.format, 48000, 1, sine);
        const AudioClip clip = readGood(folder / kind.name);
        REQUIRE(clip.samples == 48000);
        float worst = 0.0f;
        for (int side = 0; side < 2; ++side)
            for (std::size_t i = 0; i < sine.size(); ++i)
                worst = std::max(worst, std::abs(clip.channel(side)[i] - sine[i]));
        CHECK(worst <= kind.tolerance);
    }
}

TEST_CASE("of more than two channels the first two are taken, and the note says so")
{
    const TemporaryFolder folder;
    writeFile(folder / "a.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 48000, 3, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f});
    const AudioClip clip = readGood(folder / "a.wav");
    CHECK(clip.audio == std::vector<float>{0.1f, 0.4f, 0.2f, 0.5f});
    CHECK(contains(clip.note, "first two of 3 channels"));
}

TEST_CASE("NaN and infinity become silence, and the note counts them")
{
    const TemporaryFolder folder;
    constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    writeFile(folder / "a.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 48000, 2, {0.1f, nan, inf, 0.4f});
    const AudioClip clip = readGood(folder / "a.wav");
    CHECK(clip.audio == std::vector<float>{0.1f, 0.0f, 0.0f, 0.4f});
    CHECK(contains(clip.note, "2 invalid samples"));
}

TEST_CASE("a file that is too long is refused, one that is just long enough is not")
{
    const TemporaryFolder folder;
    const auto audio = noise(48001);
    writeWavFile(folder / "a.wav", 48000, audio.data(), 48001);
    writeWavFile(folder / "b.wav", 48000, audio.data(), 48000);
    AudioLimits limits;
    limits.maxSeconds = 1.0;
    CHECK(contains(readBad(folder / "a.wav", limits).text, "longer than 1.0 s"));
    CHECK(readGood(folder / "b.wav", limits).samples == 48000);
}

TEST_CASE("what is no audio is refused with a sentence that names it")
{
    const TemporaryFolder folder;
    folder.write("empty.wav", "");
    folder.write("text.wav", "This is not audio. It is a sentence, and another one, and then a third.");
    folder.write("header.wav", std::string("RIFF\x10\0\0\0WAVE", 12));
    writeFile(folder / "nothing.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 48000, 2, {});
    std::filesystem::create_directory(folder / "folder.wav");
    REQUIRE(mkfifo((folder / "pipe.wav").c_str(), 0600) == 0);
    for (const char* name :
         {"empty.wav", "text.wav", "header.wav", "nothing.wav", "folder.wav", "pipe.wav", "missing.wav"})
    {
        INFO(name);
        CHECK(contains(readBad(folder / name).text, name));
    }
}

TEST_CASE("headers that lie about channels, rate and size are refused or outlived")
{
    const TemporaryFolder folder;
    const auto audio = noise(1000);
    writeWavFile(folder / "good.wav", 48000, audio.data(), 1000);
    const std::string good = *readWholeFile(folder / "good.wav");
    const std::size_t format = good.find("fmt ") + 8, data = good.find("data");
    const auto altered = [&](std::size_t at, std::initializer_list<int> bytes)
    {
        std::string bad = good;
        for (const int byte : bytes)
            bad[at++] = static_cast<char>(byte);
        return bad;
    };
    readBad(folder.write("no channels.wav", altered(format + 2, {0, 0})));
    readBad(folder.write("no rate.wav", altered(format + 4, {0, 0, 0, 0})));
    readBad(folder.write("mad rate.wav", altered(format + 4, {0xFF, 0xFF, 0xFF, 0x7F})));
    const auto huge = readAudioFile(folder.write("huge.wav", altered(data + 4, {0xF8, 0xFF, 0xFF, 0x7F})));
    REQUIRE(!hasFailed(huge));
    CHECK((std::get<AudioClip>(huge).audio == audio));
}

TEST_CASE("a truncated file gives what it has")
{
    const TemporaryFolder folder;
    std::vector<float> samples(96000);
    std::iota(samples.begin(), samples.end(), 0.0f);
    for (float& sample : samples)
        sample = std::sin(sample * sample);
    for (const auto& [name, format] :
         {std::pair("a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16), std::pair("a.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16)})
    {
        INFO(name);
        writeFile(folder / name, format, 48000, 1, samples);
        const AudioClip whole = readGood(folder / name);
        const std::string bytes = *readWholeFile(folder / name);
        const auto cut = readAudioFile(folder.write(std::string("cut ") + name, bytes.substr(0, bytes.size() / 2)));
        REQUIRE(!hasFailed(cut));
        const AudioClip& clip = std::get<AudioClip>(cut);
        CHECK(clip.samples > 30000);
        CHECK(clip.samples < 60000);
        CHECK(std::equal(clip.channel(0), clip.channel(0) + clip.samples, whole.channel(0)));
        if (std::strstr(name, "flac") != nullptr)
            CHECK(contains(clip.note, "ends early"));
    }
}

TEST_CASE("files of random bytes behind a good beginning neither crash nor hang")
{
    const TemporaryFolder folder;
    const auto audio = noise(2000);
    std::vector<float> mono(audio.begin(), audio.begin() + 2000);
    std::mt19937 random(11);
    for (const int format : {SF_FORMAT_WAV | SF_FORMAT_PCM_24, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
                             SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_AIFF | SF_FORMAT_PCM_16})
    {
        writeFile(folder / "good", format, 48000, 1, mono);
        const std::string good = *readWholeFile(folder / "good");
        for (int round = 0; round < 100; ++round)
        {
            std::string bad = good;
            for (int change = 0; change < 8; ++change)
                bad[random() % std::min<std::size_t>(bad.size(), change < 4 ? 128 : bad.size())] =
                    static_cast<char>(random());
            const auto result = readAudioFile(folder.write("bad", bad));
            if (const auto* clip = std::get_if<AudioClip>(&result))
                for (const float sample : clip->audio)
                    REQUIRE(std::isfinite(sample));
        }
    }
}

TEST_CASE("a folder that cannot be written to is a problem with the file's name, and nothing is left behind")
{
    const TemporaryFolder folder;
    folder.write("file", "in the way");
    const std::vector<float> audio(2, 0.0f);
    const auto problem = writeWavFile(folder / "file/a.wav", 48000, audio.data(), 1);
    REQUIRE(problem);
    CHECK(problem->code == "E_OUTPUT");
    CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("a file that is not finished disappears")
{
    const TemporaryFolder folder;
    const std::vector<float> audio(100, 0.0f);
    {
        WavWriter writer(folder / "a.wav", 48000);
        REQUIRE(!writer.append(audio.data(), audio.data(), 100));
    }
    CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("a resampled sine is the sine at the other rate, without delay")
{
    for (const auto& [from, to] : {std::pair(44100, 48000), std::pair(48000, 44100), std::pair(96000, 48000),
                                   std::pair(8000, 192000), std::pair(22050, 48000)})
    {
        INFO(from << " to " << to);
        AudioClip clip;
        clip.rate = from;
        clip.samples = from;
        for (const double frequency : {997.0, 1501.0})
            for (int i = 0; i < from; ++i)
                clip.audio.push_back(static_cast<float>(0.5 * std::sin(2.0 * kPi * frequency * i / from)));
        const auto result = resampled(clip, to);
        REQUIRE(!hasFailed(result));
        const AudioClip& out = std::get<AudioClip>(result);
        REQUIRE(out.samples == to);
        double worst = 0.0;
        for (int i = to / 10; i < to - to / 10; ++i) // the ends ring: outside there is silence
        {
            worst = std::max(worst, std::abs(out.channel(0)[i] - 0.5 * std::sin(2.0 * kPi * 997.0 * i / to)));
            worst = std::max(worst, std::abs(out.channel(1)[i] - 0.5 * std::sin(2.0 * kPi * 1501.0 * i / to)));
        }
        CHECK(worst < 1e-6); // rounding to float32
    }
}

TEST_CASE("resampling gives the same bits every time, and the clip itself at its own rate")
{
    AudioClip clip;
    clip.rate = 44100;
    clip.samples = 30'011;
    clip.audio = noise(clip.samples);
    const auto first = resampled(clip, 48000), second = resampled(clip, 48000);
    CHECK((std::get<AudioClip>(first).audio == std::get<AudioClip>(second).audio));
    CHECK(std::get<AudioClip>(first).samples == resampledLength(30'011, 44100, 48000));
    CHECK((std::get<AudioClip>(resampled(clip, 44100)).audio == clip.audio));
}

TEST_CASE("lengths at another rate are rounded to the nearest sample")
{
    CHECK(resampledLength(44100, 44100, 48000) == 48000);
    CHECK(resampledLength(1, 48000, 44100) == 1);
    CHECK(resampledLength(1, 96000, 48000) == 1); // a half goes up
    CHECK(resampledLength(0, 44100, 48000) == 0);
}
