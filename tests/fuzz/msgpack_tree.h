// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <string_view>
#include <vector>

/// msgpack as a tree whose nodes a mutator moves about. Leaves keep their bytes, however odd; containers are written
/// with the number of children that they have. Memory is the default resource's, see Mutator.
namespace demon::fuzz
{
struct Node
{
    enum class Kind
    {
        leaf,
        array,
        map
    };
    Kind kind = Kind::leaf;
    std::pmr::string leaf;
    std::pmr::vector<Node> children; ///< of a map: key, value, key, value
};

class TreeReader
{
public:
    explicit TreeReader(std::string_view data) : bytes(data) {}

    /// False if the bytes are not msgpack throughout.
    bool read(Node& node) { return readNode(node, 0) && at == bytes.size(); }

private:
    static constexpr int kMaxDepth = 64;

    bool readNode(Node& node, int depth)
    {
        if (at >= bytes.size() || depth > kMaxDepth)
            return false;
        const auto head = static_cast<std::uint8_t>(bytes[at]);
        if (head < 0x80 || head >= 0xE0)
            return leaf(node, 1);
        if (head < 0x90)
            return children(node, Node::Kind::map, 1, 2 * (head & 0x0Fu), depth);
        if (head < 0xA0)
            return children(node, Node::Kind::array, 1, head & 0x0Fu, depth);
        if (head < 0xC0)
            return leaf(node, 1 + (head & 0x1Fu));
        switch (head)
        {
        case 0xC1:
            return false;
        case 0xC4:
        case 0xD9:
            return leaf(node, 2 + number(1));
        case 0xC5:
        case 0xDA:
            return leaf(node, 3 + number(2));
        case 0xC6:
        case 0xDB:
            return leaf(node, 5 + number(4));
        case 0xC7:
            return leaf(node, 3 + number(1));
        case 0xC8:
            return leaf(node, 4 + number(2));
        case 0xC9:
            return leaf(node, 6 + number(4));
        case 0xCC:
        case 0xD0:
            return leaf(node, 2);
        case 0xCD:
        case 0xD1:
        case 0xD4:
            return leaf(node, 3);
        case 0xD5:
            return leaf(node, 4);
        case 0xCA:
        case 0xCE:
        case 0xD2:
            return leaf(node, 5);
        case 0xD6:
            return leaf(node, 6);
        case 0xCB:
        case 0xCF:
        case 0xD3:
            return leaf(node, 9);
        case 0xD7:
            return leaf(node, 10);
        case 0xD8:
            return leaf(node, 18);
        case 0xDC:
            return children(node, Node::Kind::array, 3, number(2), depth);
        case 0xDD:
            return children(node, Node::Kind::array, 5, number(4), depth);
        case 0xDE:
            return children(node, Node::Kind::map, 3, 2 * number(2), depth);
        case 0xDF:
            return children(node, Node::Kind::map, 5, 2 * number(4), depth);
        default:
            return leaf(node, 1); // nil, false, true
        }
    }
    bool leaf(Node& node, std::size_t size)
    {
        if (size > bytes.size() - at)
            return false;
        node.leaf = bytes.substr(at, size);
        at += size;
        return true;
    }
    bool children(Node& node, Node::Kind kind, std::size_t headSize, std::size_t count, int depth)
    {
        if (headSize > bytes.size() - at || count > bytes.size() - at - headSize)
            return false;
        at += headSize;
        node.kind = kind;
        node.children.resize(count);
        for (Node& child : node.children)
            if (!readNode(child, depth + 1))
                return false;
        return true;
    }
    /// The big-endian number after a head; 0 where the bytes end, and then the reader fails soon.
    std::size_t number(std::size_t digits) const
    {
        std::size_t value = 0;
        for (std::size_t i = 0; i < digits; ++i)
            value = value << 8 | (at + 1 + i < bytes.size() ? static_cast<std::uint8_t>(bytes[at + 1 + i]) : 0u);
        return value;
    }

    std::string_view bytes;
    std::size_t at = 0;
};

inline std::string bigEndian(std::uint64_t value, int digits)
{
    std::string bytes;
    for (int shift = 8 * (digits - 1); shift >= 0; shift -= 8)
        bytes.push_back(static_cast<char>(value >> shift & 0xFFu));
    return bytes;
}

inline void write(const Node& node, std::string& out)
{
    if (node.kind == Node::Kind::leaf)
    {
        out += node.leaf;
        return;
    }
    const bool isMap = node.kind == Node::Kind::map;
    const std::size_t count = isMap ? node.children.size() / 2 : node.children.size();
    if (count < 16)
        out.push_back(static_cast<char>((isMap ? 0x80u : 0x90u) | count));
    else
        out += (isMap ? '\xDE' : '\xDC') + bigEndian(count, 2);
    for (const Node& child : node.children)
        write(child, out);
}

inline Node textNode(std::string_view text)
{
    Node node;
    node.leaf =
        text.size() < 32 ? std::string(1, static_cast<char>(0xA0u | text.size())) : '\xDA' + bigEndian(text.size(), 2);
    node.leaf += text;
    return node;
}
} // namespace demon::fuzz
