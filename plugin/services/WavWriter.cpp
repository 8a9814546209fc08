// SPDX-License-Identifier: AGPL-3.0-or-later
#include "WavWriter.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "WholeFile.h"

namespace demon
{
namespace
{
constexpr std::int64_t kSamplesAtOnce = 16384;
} // namespace

WavWriter::WavWriter(std::filesystem::path nearPath, int sampleRate) : part(partPathOf(nearPath))
{
    SF_INFO info{};
    info.channels = 2;
    info.samplerate = sampleRate;
    info.format = SF_FORMAT_WAV | SF_FORMAT_FLOAT;
    file = openSoundFile(part, SFM_WRITE, info);
    if (file != nullptr)
        sf_command(file.get(), SFC_SET_ADD_PEAK_CHUNK, nullptr, SF_FALSE); // it has the time in it
}

WavWriter::~WavWriter()
{
    file.reset();
    std::error_code ignored;
    std::filesystem::remove(part, ignored); // there is none any more after finish
}

std::optional<Problem> WavWriter::append(const float* left, const float* right, std::int64_t count)
{
    if (file == nullptr)
        return outputProblem(part, "the file cannot be opened");
    if (written + count > kMaxSamples)
        return outputProblem(part, "a WAV cannot be longer than 4 GB");
    interleaved.resize(2 * static_cast<std::size_t>(std::min(count, kSamplesAtOnce)));
    for (std::int64_t done = 0; done < count;)
    {
        const std::int64_t run = std::min(count - done, kSamplesAtOnce);
        for (std::int64_t i = 0; i < run; ++i)
        {
            interleaved[static_cast<std::size_t>(2 * i)] = left[done + i];
            interleaved[static_cast<std::size_t>(2 * i + 1)] = right[done + i];
        }
        if (sf_writef_float(file.get(), interleaved.data(), run) != run)
        {
            const std::string reason = sf_strerror(file.get());
            file.reset();
            return outputProblem(part, reason);
        }
        written += run;
        done += run;
    }
    return std::nullopt;
}

std::optional<Problem> WavWriter::finish(const std::filesystem::path& path)
{
    if (file == nullptr)
        return outputProblem(path, "the file cannot be opened");
    if (const int failure = sf_close(file.release()); failure != 0)
        return outputProblem(path, sf_error_number(failure));
    return renamePart(part, path);
}

std::optional<Problem> writeWavFile(const std::filesystem::path& path, int rate, const float* audio,
                                    std::int64_t samples)
{
    if (auto problem = makeFolder(path.parent_path()))
        return problem;
    WavWriter writer(path, rate);
    if (auto problem = writer.append(audio, audio + samples, samples))
        return problem;
    return writer.finish(path);
}
} // namespace demon
