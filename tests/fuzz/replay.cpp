// SPDX-License-Identifier: Apache-2.0
// demon_fuzz_replay [--verdicts] FILE|FOLDER...: every case through the C++ codec, without a fuzzer. Ends by abort
// where an invariant breaks. --verdicts prints what the decoder makes of each, for the tests that hold Python to the
// same: `FILE CODE` or `FILE TYPE CRC`, the CRC-32 of the canonical form as a file of shared_protocol/vectors.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "invariants.h"

namespace
{
namespace fs = std::filesystem;
using namespace demon;

std::vector<fs::path> filesIn(const fs::path& place)
{
    if (!fs::is_directory(place))
        return {place};
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(place))
        if (entry.is_regular_file())
            files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    return files;
}

std::uint32_t crc32(const std::string& bytes)
{
    std::uint32_t crc = 0xFFFFFFFFu;
    for (const char byte : bytes)
    {
        crc ^= static_cast<std::uint8_t>(byte);
        for (int bit = 0; bit < 8; ++bit)
            crc = crc >> 1 ^ ((crc & 1u) != 0 ? 0xEDB88320u : 0u);
    }
    return ~crc;
}

std::string packed(const Parts& parts)
{
    std::string bytes;
    const auto append = [&](std::size_t number)
    {
        for (int shift = 0; shift < 32; shift += 8)
            bytes.push_back(static_cast<char>(number >> shift & 0xFFu));
    };
    append(parts.size());
    for (const std::string& part : parts)
    {
        append(part.size());
        bytes += part;
    }
    return bytes;
}

/// Lanes have no names here: their ranges are the server's to check, which Python's codec leaves to it.
void printVerdict(const fs::path& file, const fuzz::Case& source)
{
    const Parts parts = source.expanded();
    const Decoded decoded = decode(fuzz::viewsOf(parts), source.shape(false));
    if (const auto* fault = std::get_if<Fault>(&decoded))
        std::printf("%s %s\n", file.c_str(), fault->code);
    else
        std::printf("%s %s %08x\n", file.c_str(), fuzz::typeOf(std::get<Message>(decoded)),
                    static_cast<unsigned int>(crc32(packed(encode(std::get<Message>(decoded))))));
}
} // namespace

int main(int count, char** arguments)
{
    const bool prints = count > 1 && std::strcmp(arguments[1], "--verdicts") == 0;
    std::size_t replayed = 0;
    for (int i = prints ? 2 : 1; i < count; ++i)
        for (const fs::path& file : filesIn(arguments[i]))
        {
            std::ifstream stream(file, std::ios::binary);
            const std::string data{std::istreambuf_iterator<char>(stream), {}};
            const fuzz::Case source = fuzz::readCase(data);
            const Parts parts = source.expanded();
            fuzz::checkDecoded(decode(fuzz::viewsOf(parts), source.shape()), parts, source.shape());
            ++replayed;
            if (prints)
                printVerdict(file, source);
        }
    std::fprintf(stderr, "%zu cases\n", replayed);
    return replayed > 0 ? 0 : 1;
}
