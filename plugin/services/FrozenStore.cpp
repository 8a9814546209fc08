// SPDX-License-Identifier: AGPL-3.0-or-later
#include "FrozenStore.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <optional>
#include <system_error>
#include <utility>

#include "AudioFile.h"
#include "Json.h"
#include "Resampler.h"
#include "Sha256.h"
#include "UserFolders.h"
#include "WholeFile.h"

namespace demon
{
namespace
{
namespace fs = std::filesystem;

constexpr std::int64_t kVersion = 1;
constexpr double kLongestSeconds = 24.0 * 3600.0;

/// What a description says.
struct Description
{
    std::string wav;
    std::int64_t firstFrame = 0;
    std::vector<std::string> lanes;
    std::vector<std::uint64_t> inputHashes;
    Receipt receipt;
};

bool isHash(const std::string& text)
{
    return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::string descriptionName(const std::string& id) { return id.substr(0, 32) + ".frozen.json"; }
std::string wavName(const std::string& resultSha256) { return resultSha256.substr(0, 32) + ".wav"; }

std::string hashesToText(const std::vector<std::uint64_t>& hashes)
{
    std::string text;
    char digits[17];
    for (const std::uint64_t hash : hashes)
    {
        std::snprintf(digits, sizeof digits, "%016" PRIx64, hash);
        text += digits;
    }
    return text;
}

std::optional<std::vector<std::uint64_t>> hashesFromText(const std::string& text)
{
    if (text.size() % 16 != 0 || text.find_first_not_of("0123456789abcdef") != std::string::npos)
        return std::nullopt;
    std::vector<std::uint64_t> hashes;
    for (std::size_t at = 0; at < text.size(); at += 16)
        hashes.push_back(std::stoull(text.substr(at, 16), nullptr, 16));
    return hashes;
}

std::string describe(const Render& render)
{
    json::Value lanes = json::Value::array();
    for (const auto& [id, range] : render.receipt.lanes)
        lanes.push_back(id);
    return json::write({{"version", kVersion},
                        {"wav", wavName(render.receipt.resultSha256)},
                        {"first_frame", render.firstFrame},
                        {"lanes", lanes},
                        {"input_hashes", hashesToText(render.inputHashes)},
                        {"receipt", json::fromReceipt(render.receipt)}});
}

std::optional<Description> parse(const std::string& text)
{
    const auto object = json::readObject(text);
    if (!object || json::integerOf(*object, "version") != kVersion || !object->contains("receipt"))
        return std::nullopt;
    auto receipt = json::toReceipt(object->at("receipt"));
    auto hashes = hashesFromText(json::textOf(*object, "input_hashes"));
    if (!receipt || !hashes || !isHash(receipt->resultSha256))
        return std::nullopt;
    Description description{wavName(receipt->resultSha256), json::integerOf(*object, "first_frame"),
                            json::textsOf(*object, "lanes"), *std::move(hashes), *std::move(receipt)};
    return description;
}

Problem corrupt(const fs::path& file, const std::string& what)
{
    return {"E_FROZEN_CORRUPT", file.string() + " " + what + ": restore it from a backup, or freeze the track again"};
}
} // namespace

FrozenStore::FrozenStore(std::vector<fs::path> foldersToSearch) : folders(std::move(foldersToSearch)) {}

fs::path FrozenStore::userFolder() { return userFolders::data() / "frozen"; }

Result<std::string> FrozenStore::freeze(const Render& render, const fs::path& folder)
{
    if (!render.receipt.isComplete)
        return Problem{"E_FROZEN_INCOMPLETE", "the last render has gaps: bounce the track once, and freeze that"};
    if (auto problem = makeFolder(folder))
        return *problem;
    const std::string description = describe(render);
    const std::string id = Sha256().append(description).hex();
    const fs::path wav = folder / wavName(render.receipt.resultSha256), part = partPathOf(wav);
    std::error_code failure;
    if (!fs::copy_file(render.wav, part, failure))
    {
        std::error_code ignored;
        fs::remove(part, ignored);
        if (!fs::exists(render.wav, ignored))
            return Problem{"E_FROZEN_MISSING", render.wav.string() + " is gone: bounce the track again"};
        return outputProblem(wav, failure.message());
    }
    if (auto problem = renamePart(part, wav))
        return *problem;
    if (auto problem = writeWholeFile(folder / descriptionName(id), description))
        return *problem;
    return id;
}

Result<std::shared_ptr<const FrozenTake>> FrozenStore::load(const std::string& id, int hostRate) const
{
    if (!isHash(id))
        return Problem{"E_FROZEN_CORRUPT", "the project names no frozen take: freeze the track again"};
    const fs::path file = find(descriptionName(id));
    const auto text = readWholeFile(file);
    if (!text)
        return missing(descriptionName(id));
    if (Sha256().append(*text).hex() != id)
        return corrupt(file, "has been changed");
    auto description = parse(*text);
    if (!description)
        return corrupt(file, "is of another version of this plugin");

    const fs::path wav = find(description->wav);
    if (wav.empty())
        return missing(description->wav);
    AudioLimits limits;
    limits.maxSeconds = kLongestSeconds;
    auto read = readAudioFile(wav, limits);
    AudioClip* const clip = std::get_if<AudioClip>(&read);
    if (clip == nullptr || clip->rate != description->receipt.rate ||
        hashFloats(clip->audio.data(), clip->audio.size()) != description->receipt.resultSha256)
        return corrupt(wav, "has been changed");
    if (!isSupportedRate(clip->rate) || !isSupportedRate(hostRate))
        return Problem{"E_SAMPLE_RATE", "a frozen take plays at multiples of 25 Hz from 8000 to 192000: choose "
                                        "another rate"};

    const auto selection = LaneSelection::of(description->lanes);
    const bool isComparable = selection && clip->rate == hostRate;
    auto atHostRate = resampled(std::move(*clip), hostRate);
    if (hasFailed(atHostRate))
        return std::get<Problem>(atHostRate);
    return std::make_shared<const FrozenTake>(id, std::get<AudioClip>(std::move(atHostRate)), description->firstFrame,
                                              isComparable ? std::move(description->inputHashes)
                                                           : std::vector<std::uint64_t>(),
                                              selection.value_or(LaneSelection()), std::move(description->receipt));
}

/// The first of the folders that has it; empty when none has.
fs::path FrozenStore::find(const std::string& name) const
{
    std::error_code ignored;
    for (const fs::path& folder : folders)
        if (fs::is_regular_file(folder / name, ignored))
            return folder / name;
    return {};
}

Problem FrozenStore::missing(const std::string& name) const
{
    std::string places;
    for (const fs::path& folder : folders)
        places += (places.empty() ? "" : " or ") + folder.string();
    return {"E_FROZEN_MISSING", name + " is missing: put it into " + places + ", or freeze the track again"};
}
} // namespace demon
