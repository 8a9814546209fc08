// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PlanarHash.h"

#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "WholeFile.h"

namespace demon
{
PlanarHash::PlanarHash(const std::filesystem::path& nearPath)
    : part(partPathOf(nearPath)), file(std::fopen(part.string().c_str(), "w+b"))
{
}

PlanarHash::~PlanarHash()
{
    file.reset();
    std::error_code ignored;
    std::filesystem::remove(part, ignored);
}

std::optional<Problem> PlanarHash::append(const float* left, const float* right, std::size_t count)
{
    hash.append(left, count);
    if (file != nullptr && std::fwrite(right, sizeof(float), count, file.get()) == count)
        return std::nullopt;
    return outputProblem(part, std::strerror(errno));
}

Result<std::string> PlanarHash::finish()
{
    if (file == nullptr || std::fflush(file.get()) != 0 || std::fseek(file.get(), 0, SEEK_SET) != 0)
        return outputProblem(part, std::strerror(errno));
    std::vector<float> values(65536);
    while (const std::size_t count = std::fread(values.data(), sizeof(float), values.size(), file.get()))
        hash.append(values.data(), count);
    if (std::ferror(file.get()) != 0)
        return outputProblem(part, std::strerror(errno));
    return hash.hex();
}
} // namespace demon
