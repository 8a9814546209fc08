// SPDX-License-Identifier: AGPL-3.0-or-later
#include "RenderFolder.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <vector>

namespace demon::renderFolder
{
namespace
{
namespace fs = std::filesystem;

constexpr std::size_t kNameDigits = 16;

struct Entry
{
    fs::path path;
    fs::file_time_type time;
    std::uint64_t bytes = 0;
};

/// The files with this extension, the oldest first.
std::vector<Entry> listFiles(const fs::path& folder, const char* extension)
{
    std::vector<Entry> entries;
    std::error_code failure;
    for (fs::directory_iterator at(folder, failure), end; !failure && at != end; at.increment(failure))
    {
        std::error_code gone; // another plugin may have removed it meanwhile
        const Entry entry{at->path(), at->last_write_time(gone), at->file_size(gone)};
        if (!gone && entry.path.extension() == extension)
            entries.push_back(entry);
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.time < b.time; });
    return entries;
}
} // namespace

fs::path wavOf(const fs::path& folder, const std::string& resultSha256)
{
    return folder / (resultSha256.substr(0, kNameDigits) + ".wav");
}

fs::path receiptOf(const fs::path& wav)
{
    fs::path receipt = wav;
    return receipt.replace_extension(".receipt.json");
}

void makeRoom(const fs::path& folder, std::uint64_t budgetBytes, const fs::path& keep)
{
    const std::vector<Entry> renders = listFiles(folder, ".wav");
    std::uint64_t total = 0;
    for (const Entry& render : renders)
        total += render.bytes;
    for (const Entry& render : renders)
    {
        if (total <= budgetBytes)
            return;
        std::error_code failure;
        if (render.path == keep || !fs::remove(render.path, failure))
            continue;
        fs::remove(receiptOf(render.path), failure);
        total -= render.bytes;
    }
}

void sweep(const fs::path& folder)
{
    const auto aDayAgo = fs::file_time_type::clock::now() - std::chrono::hours(24);
    for (const Entry& part : listFiles(folder, ".part"))
        if (std::error_code failure; part.time < aDayAgo)
            fs::remove(part.path, failure);
}
} // namespace demon::renderFolder
