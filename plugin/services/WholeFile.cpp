// SPDX-License-Identifier: AGPL-3.0-or-later
#include "WholeFile.h"

#include <atomic>
#include <fstream>
#include <iterator>
#include <system_error>
#ifdef _WIN32
#include <process.h>
#else
#include <unistd.h>
#endif

namespace demon
{
namespace
{
namespace fs = std::filesystem;

long processId()
{
#ifdef _WIN32
    return _getpid();
#else
    return getpid();
#endif
}
} // namespace

fs::path partPathOf(const fs::path& path)
{
    static std::atomic<int> number{0};
    return path.parent_path() / ("." + path.filename().string() + "." + std::to_string(processId()) + "-" +
                                 std::to_string(++number) + ".part");
}

Problem outputProblem(const fs::path& path, const std::string& reason)
{
    return {"E_OUTPUT",
            path.string() + " cannot be written: " + reason + ". Make room or choose another folder, and try again"};
}

std::optional<Problem> makeFolder(const fs::path& folder)
{
    std::error_code failure;
    fs::create_directories(folder, failure);
    if (!failure && fs::is_directory(folder, failure))
        return std::nullopt;
    return outputProblem(folder, failure ? failure.message() : "it is not a folder");
}

std::optional<Problem> renamePart(const fs::path& part, const fs::path& path)
{
    std::error_code failure, ignored;
    fs::rename(part, path, failure);
    if (!failure)
        return std::nullopt;
    fs::remove(part, ignored);
    return outputProblem(path, failure.message());
}

std::optional<Problem> writeWholeFile(const fs::path& path, std::string_view bytes)
{
    if (auto problem = makeFolder(path.parent_path()))
        return problem;
    const fs::path part = partPathOf(path);
    std::ofstream file(part, std::ios::binary);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.close();
    if (file)
        return renamePart(part, path);
    std::error_code ignored;
    fs::remove(part, ignored);
    return outputProblem(path, "the disk is full or the folder is not yours");
}

std::optional<std::string> readWholeFile(const fs::path& path, std::uintmax_t limit)
{
    std::error_code failure;
    if (!fs::is_regular_file(path, failure) || failure || fs::file_size(path, failure) > limit || failure)
        return std::nullopt;
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), {}};
    return file.bad() ? std::nullopt : std::optional(std::move(bytes));
}
} // namespace demon
