// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
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
template <class M> auto audioIn(const M& message, int) -> decltype(&message.audio) { return &message.audio; }
template <class M> const std::vector<float>* audioIn(const M&, long) { return nullptr; }

inline const std::vector<float>& audioOf(const Message& message)
{
    static const std::vector<float> none;
    const auto* const found =
        std::visit([](const auto& m) -> const std::vector<float>* { return audioIn(m, 0); }, message);
    return found != nullptr ? *found : none;
}

template <class M> auto isPacked(const M& message, int) -> decltype(message.audio.empty())
{
    return message.packing != "none";
}
template <class M> bool isPacked(const M&, long) { return false; }

/// The samples of a message that came packed; null for others.
inline const std::vector<float>* packedAudioOf(const Message& message)
{
    return std::visit([](const auto& m) { return isPacked(m, 0); }, message) ? &audioOf(message) : nullptr;
}

inline bool haveSameBits(const std::vector<float>& one, const std::vector<float>& other)
{
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

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
    // Packed audio has no canonical bytes: its samples are what stays.
    const std::vector<float>* const packed = packedAudioOf(message);
    for (std::size_t i = packed != nullptr ? 2 : 1; i < parts.size(); ++i)
        require(canonical[i] == parts[i], "a payload keeps its bytes");
    const Decoded again = decode(viewsOf(canonical), shape);
    require(std::holds_alternative<Message>(again), "the canonical form decodes");
    if (packed != nullptr)
        require(haveSameBits(*packed, audioOf(std::get<Message>(again))), "packed audio keeps its bits");
    require(encode(std::get<Message>(again)) == canonical, "the canonical form decodes to the same message");
    require(typeOf(std::get<Message>(again)) == std::string(typeOf(message)), "the canonical form has the same type");
}
} // namespace demon::fuzz
