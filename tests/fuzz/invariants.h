// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <variant>

#include "fuzz_case.h"

/// What holds for every message, good or bad. Knows no message by name.
namespace demon::fuzz
{
inline void require(bool holds, const char* what)
{
    if (holds)
        return;
    std::fprintf(stderr, "broken: %s\n", what);
    std::abort(); // for libFuzzer, which keeps the input
}

/// The codes in the table of SPEC.md.
inline const std::set<std::string>& documentedCodes()
{
    static const std::set<std::string> codes = []
    {
        std::set<std::string> found;
        std::ifstream document(DEMON_SPEC);
        for (std::string line; std::getline(document, line);)
            if (line.rfind("| E_", 0) == 0)
                found.insert(line.substr(2, line.find(' ', 2) - 2));
        require(found.size() > 10, "SPEC.md lists the codes of errors");
        return found;
    }();
    return codes;
}

inline std::vector<std::string_view> viewsOf(const Parts& parts) { return {parts.begin(), parts.end()}; }

inline const char* typeOf(const Message& message)
{
    return std::visit([](const auto& m) { return m.type; }, message);
}

/// A fault has a documented code; a message has one canonical form, and decodes from it as itself.
inline void checkDecoded(const Decoded& decoded, const Parts& parts, const PayloadShape& shape)
{
    if (const auto* fault = std::get_if<Fault>(&decoded))
    {
        require(fault->code != nullptr && documentedCodes().count(fault->code) == 1, "a fault's code is documented");
        require(!fault->text.empty() && isUtf8(fault->text), "a fault says what is wrong, in UTF-8");
        return;
    }
    const auto& message = std::get<Message>(decoded);
    const Parts canonical = encode(message);
    require(canonical.size() == parts.size(), "a message encodes to as many parts as it came in");
    for (std::size_t i = 1; i < parts.size(); ++i)
        require(canonical[i] == parts[i], "a payload keeps its bytes");
    const Decoded again = decode(viewsOf(canonical), shape);
    require(std::holds_alternative<Message>(again), "the canonical form decodes");
    require(encode(std::get<Message>(again)) == canonical, "the canonical form decodes to the same message");
    require(typeOf(std::get<Message>(again)) == std::string(typeOf(message)), "the canonical form has the same type");
}
} // namespace demon::fuzz
