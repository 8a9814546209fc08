// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory_resource>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz_case.h"
#include "msgpack_tree.h"

/// libFuzzer's own mutation of some bytes.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t maxSize);

namespace demon::fuzz
{
/// Changes a case where it matters: in the tree of its header, in its parts, and back to what the decoder asks for.
/// Blind bytes would seldom get past msgpack, and never to a payload. Knows no message by name.
class Mutator
{
public:
    explicit Mutator(unsigned int seed) : random(seed) {}

    std::string mutate(std::string_view data, std::size_t maxSize)
    {
        const Arena arena;
        if (oneIn(16))
            return blind(std::string(data), maxSize);
        Case changed = readCase(data);
        if (changed.parts.empty())
            changed.parts.emplace_back();
        for (std::size_t steps = 1 + below(3); steps-- > 0;)
            change(changed);
        if (oneIn(4))
            repair(changed);
        return fitting(changed, data, maxSize);
    }

    /// The first case with something of the second's.
    std::string cross(std::string_view first, std::string_view second, std::size_t maxSize)
    {
        const Arena arena;
        Case into = readCase(first);
        const Case from = readCase(second);
        Node tree, other;
        if (!into.parts.empty() && !from.parts.empty() && TreeReader(into.parts[0].bytes).read(tree) &&
            TreeReader(from.parts[0].bytes).read(other) && !oneIn(8))
        {
            graft(tree, other);
            into.parts[0].bytes.clear();
            write(tree, into.parts[0].bytes);
        }
        else if (!from.parts.empty())
            into.parts.push_back(from.parts[below(from.parts.size())]);
        if (oneIn(4))
            repair(into);
        return fitting(into, first, maxSize);
    }

private:
    /// The default memory resource while a tree lives: on a checked heap, trees would take most of the fuzzer's time.
    class Arena
    {
    public:
        Arena() { std::pmr::set_default_resource(&memory); }
        ~Arena() { std::pmr::set_default_resource(nullptr); }
        Arena(const Arena&) = delete;
        Arena& operator=(const Arena&) = delete;

    private:
        inline static char buffer[1 << 18];
        std::pmr::monotonic_buffer_resource memory{buffer, sizeof buffer};
    };

    std::size_t below(std::size_t count) { return count == 0 ? 0 : random() % count; }
    bool oneIn(std::size_t chances) { return below(chances) == 0; }
    template <class List> const typename List::value_type& oneOf(const List& items)
    {
        return items[below(items.size())];
    }

    static std::string fitting(const Case& changed, std::string_view otherwise, std::size_t maxSize)
    {
        std::string data = writeCase(changed);
        return data.size() <= maxSize ? data : std::string(otherwise.substr(0, maxSize));
    }
    static std::string blind(std::string bytes, std::size_t maxSize)
    {
        const std::size_t size = std::min(bytes.size(), maxSize);
        bytes.resize(maxSize);
        bytes.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(bytes.data()), size, maxSize));
        return bytes;
    }

    void change(Case& changed)
    {
        CasePart& header = changed.parts.front();
        switch (below(12))
        {
        case 0:
            changed.rate = static_cast<std::uint8_t>(random());
            break;
        case 1:
            changed.lanes = static_cast<std::uint8_t>(oneIn(8) ? below(256) : below(6));
            break;
        case 2:
            changeParts(changed);
            break;
        case 3:
            header.bytes = blind(header.bytes, header.bytes.size() + 16);
            break;
        default:
            Node tree;
            if (header.filled || !TreeReader(header.bytes).read(tree))
            {
                header.filled = false;
                header.bytes = blind(header.bytes, header.bytes.size() + 16);
                break;
            }
            changeTree(tree);
            header.bytes.clear();
            write(tree, header.bytes);
        }
    }
    void changeParts(Case& changed)
    {
        const std::size_t which = below(changed.parts.size());
        CasePart filled;
        filled.filled = true;
        filled.size = below(oneIn(32) ? kMaxFilled : 4096);
        filled.bytes = oneOf(kWords);
        switch (below(5))
        {
        case 0:
            changed.parts.push_back(filled);
            break;
        case 1:
            changed.parts.erase(changed.parts.begin() + static_cast<std::ptrdiff_t>(which));
            break;
        case 2:
            changed.parts.push_back(changed.parts[which]);
            break;
        case 3:
            changed.parts[which].bytes = blind(changed.parts[which].bytes, changed.parts[which].bytes.size() + 8);
            break;
        default:
            changed.parts[which] = which > 0 ? filled : changed.parts[which];
        }
        if (changed.parts.empty())
            changed.parts.emplace_back();
        for (CasePart& part : changed.parts)
            if (part.filled)
                part.bytes.resize(4);
    }
    void changeTree(Node& tree)
    {
        Node& node = anyNode(tree);
        switch (below(7))
        {
        case 0:
            node = interesting();
            break;
        case 1:
            addEntry(node);
            break;
        case 2:
            removeEntry(node);
            break;
        case 3:
            std::shuffle(node.children.begin(), node.children.end(), random);
            break;
        case 4:
            changeLeaf(node);
            break;
        case 5:
            wrap(node);
            break;
        default:
            changeValue(tree);
        }
    }
    /// The likeliest to be of use: another value under a key that is there.
    void changeValue(Node& tree)
    {
        Node* node = &tree;
        while (node->kind == Node::Kind::map && node->children.size() >= 2)
            node = &node->children[2 * below(node->children.size() / 2) + 1];
        if (node->kind == Node::Kind::array && !node->children.empty() && !oneIn(3))
            node = &node->children[below(node->children.size())];
        oneIn(2) ? changeLeaf(*node) : void(*node = interesting());
    }
    void addEntry(Node& node)
    {
        if (node.kind == Node::Kind::map)
        {
            Node key = node.children.size() >= 2 && oneIn(2) ? node.children[2 * below(node.children.size() / 2)]
                       : oneIn(8)                            ? interesting()
                                                             : textNode("k" + std::to_string(below(100)));
            node.children.push_back(std::move(key));
            node.children.push_back(interesting());
        }
        else if (node.kind == Node::Kind::array)
        {
            const Node entry = node.children.empty() || oneIn(4) ? interesting() : oneOf(node.children);
            node.children.resize(node.children.size() + (oneIn(16) ? 1 + below(300) : 1), entry);
        }
    }
    void removeEntry(Node& node)
    {
        const std::size_t size = node.kind == Node::Kind::map ? 2 : 1;
        if (node.children.size() < size)
            return;
        const auto first =
            node.children.begin() + static_cast<std::ptrdiff_t>(size * below(node.children.size() / size));
        node.children.erase(first, first + static_cast<std::ptrdiff_t>(size));
    }
    void changeLeaf(Node& node)
    {
        if (node.kind != Node::Kind::leaf || node.leaf.empty())
            return;
        const auto head = static_cast<std::uint8_t>(node.leaf[0]);
        const bool isText = (head >= 0xA0 && head < 0xC0) || (head >= 0xD9 && head <= 0xDB);
        if (!isText)
        {
            node.leaf = blind(std::string(node.leaf), node.leaf.size() + 4);
            return;
        }
        const std::size_t headSize = head < 0xC0 ? 1 : head == 0xD9 ? 2 : head == 0xDA ? 3 : 5;
        std::string text(std::string_view(node.leaf).substr(headSize));
        node = textNode(oneIn(3) ? text + text : blind(text, text.size() + 4));
    }
    void wrap(Node& node)
    {
        Node outer;
        outer.kind = oneIn(2) ? Node::Kind::array : Node::Kind::map;
        if (outer.kind == Node::Kind::map)
            outer.children.push_back(textNode("w"));
        outer.children.push_back(node);
        node = std::move(outer);
    }
    void graft(Node& tree, Node& other)
    {
        Node& source = anyNode(other);
        if (tree.kind == Node::Kind::map && other.kind == Node::Kind::map && other.children.size() >= 2 && oneIn(2))
        {
            const std::size_t entry = 2 * below(other.children.size() / 2);
            for (std::size_t i = 0; i + 1 < tree.children.size(); i += 2)
                if (tree.children[i].leaf == other.children[entry].leaf && tree.children[i].kind == Node::Kind::leaf)
                {
                    tree.children[i + 1] = other.children[entry + 1];
                    return;
                }
            tree.children.push_back(other.children[entry]);
            tree.children.push_back(other.children[entry + 1]);
            return;
        }
        Node copy = source;
        anyNode(tree) = std::move(copy);
    }
    Node& anyNode(Node& tree)
    {
        Node* node = &tree;
        while (!node->children.empty() && !oneIn(4))
            node = &node->children[below(node->children.size())];
        return *node;
    }
    Node interesting()
    {
        Node node;
        switch (below(8))
        {
        case 0:
            node.leaf = oneOf(kOddLeaves);
            break;
        case 1:
            node.leaf = '\xCB' + bigEndian(oneOf(kReals), 8);
            break;
        case 2:
            node = textNode(std::string(oneOf(kLengths), oneIn(2) ? 'a' : '\xC3'));
            break;
        case 3:
            node = textNode(oneOf(kTexts));
            break;
        case 4:
            node.kind = oneIn(2) ? Node::Kind::array : Node::Kind::map;
            break;
        default:
            const std::uint64_t number = oneOf(kNumbers) + below(3) - 1;
            node.leaf = (oneIn(4) ? '\xD3' : '\xCF') + bigEndian(oneIn(4) ? 0 - number : number, 8);
        }
        return node;
    }

    /// The decoder itself says how many parts and bytes it wants.
    void repair(Case& changed)
    {
        for (int tries = 0; tries < 4; ++tries)
        {
            const Parts parts = changed.expanded();
            const Decoded decoded = decode({parts.begin(), parts.end()}, changed.shape());
            const auto* fault = std::get_if<Fault>(&decoded);
            const std::size_t words = fault == nullptr ? std::string::npos : fault->text.find(" instead of ");
            if (words == std::string::npos)
                return;
            const std::size_t wanted = numberAfter(fault->text, " instead of ");
            if (fault->code == std::string_view(error::malformed))
                return resizeParts(changed, wanted) ? repair(changed) : void();
            if (wanted > kMaxFilled || (wanted > 4096 && !oneIn(16)) ||
                !refill(changed, numberAfter(fault->text, " has "), wanted))
                return;
        }
    }
    static std::size_t numberAfter(const std::string& text, const char* words)
    {
        const std::size_t at = text.find(words);
        return at == std::string::npos ? 0 : std::strtoul(text.c_str() + at + std::strlen(words), nullptr, 10);
    }
    bool resizeParts(Case& changed, std::size_t wanted)
    {
        if (wanted == changed.parts.size() || wanted > kMaxParts || wanted == 0)
            return false;
        CasePart filled;
        filled.filled = true;
        filled.bytes = oneOf(kWords);
        changed.parts.resize(wanted, filled);
        return true;
    }
    /// Gives the payload that has the one size the other.
    static bool refill(Case& changed, std::size_t size, std::size_t wanted)
    {
        for (std::size_t i = 1; i < changed.parts.size(); ++i)
        {
            CasePart& part = changed.parts[i];
            if ((part.filled ? part.size : part.bytes.size()) != size)
                continue;
            part.filled = true;
            part.size = wanted;
            part.bytes.resize(4);
            return true;
        }
        return false;
    }

    // Around the ends of the ranges of msgpack, of integers and of the protocol's lists, texts and numbers.
    inline static const std::vector<std::uint64_t> kNumbers = {
        0,        1,        16,         25,         32,         50,         64,    128,   256,
        400,      1024,     3000,       4096,       6000,       8000,       48000, 65536, 192000,
        11520000, 1u << 24, 1ull << 31, 1ull << 32, 1ull << 53, 1ull << 63, 0};
    inline static const std::vector<std::uint64_t> kReals = {0,
                                                             0x8000000000000000,
                                                             0x3FF0000000000000,
                                                             0x412E848000000000,
                                                             0x412E848000000001,
                                                             0x7FF0000000000000,
                                                             0xFFF0000000000000,
                                                             0x7FF8000000000000,
                                                             0x0000000000000001,
                                                             0x7FEFFFFFFFFFFFFF,
                                                             0xBFF0000000000000};
    inline static const std::vector<std::size_t> kLengths = {0,   1,   16,  31,  32,   33,   63,   64,  65,
                                                             128, 129, 255, 256, 1024, 1025, 4096, 4097};
    inline static const std::vector<std::string> kTexts = {
        "",         "type",         std::string("\0", 1), "\xED\xA0\x80", "\xF4\x90\x80\x80",
        "\xC0\x80", "\xE2\x82\xAC", "\xF0\x9F\x8E\xBB",   "\xFF",         "\n"};
    inline static const std::vector<std::string> kOddLeaves = {"\xC0",
                                                               "\xC2",
                                                               "\xC3",
                                                               "\xC1",
                                                               std::string("\xC4\x00", 2),
                                                               "\xD4\xFFz",
                                                               std::string("\xD6\xFF\0\0\0\0", 6),
                                                               "\xCA\x3F\x80\x01\x02",
                                                               std::string("\xDC\x10\x00", 3),
                                                               "\xDD\xFF\xFF\xFF\xFF",
                                                               "\xDF\xFF\xFF\xFF\xFF",
                                                               std::string("\xDE\x10\x01", 3),
                                                               "\xDB\xFF\xFF\xFF\xFF",
                                                               "\xC6\xFF\xFF\xFF\xFF",
                                                               std::string("\xC7\x00\x01", 3)};
    /// Repeated in a payload: 0, 0.5, 1, -1, NaN, infinity, the largest, the smallest, not a whole number of floats.
    inline static const std::vector<std::string> kWords = {
        std::string("\0\0\0\0", 4),         std::string("\0\0\0\x3F", 4),   std::string("\0\0\x80\x3F", 4),
        std::string("\0\0\x80\xBF", 4),     std::string("\0\0\xC0\x7F", 4), std::string("\0\0\x80\x7F", 4),
        std::string("\xFF\xFF\x7F\x7F", 4), std::string("\x01\0\0\0", 4)};

    std::minstd_rand random;
};
} // namespace demon::fuzz
