// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <msgpack.hpp>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "demon/field_reader.h"
#include "demon/messages.h"
#include "demon/utf8.h"

namespace demon
{
using Decoded = std::variant<Message, Fault>;

namespace detail
{
inline constexpr std::size_t kMaxHeaderBytes = 64 * 1024;

/// Tries the alternatives of Message until one carries the type's name.
template <std::size_t Index = 0> Decoded decodeNamed(std::string_view type, FieldReader& reader)
{
    if constexpr (Index == std::variant_size_v<Message>)
    {
        return Fault{error::unknownMessage, "unknown type " + std::string(type)};
    }
    else
    {
        using M = std::variant_alternative_t<Index, Message>;
        if (type != M::type)
            return decodeNamed<Index + 1>(type, reader);
        M message;
        reader.read(message);
        if (!reader.ok())
            return reader.fault();
        return Message(std::move(message));
    }
}

/// Whether all maps in a value have text for keys, and none of them twice: decoders differ in which one they would
/// take.
inline bool hasProperKeys(const msgpack::object& value)
{
    if (value.type == msgpack::type::ARRAY)
        return std::all_of(value.via.array.ptr, value.via.array.ptr + value.via.array.size, hasProperKeys);
    if (value.type != msgpack::type::MAP)
        return true;
    std::vector<std::string_view> keys;
    for (std::uint32_t i = 0; i < value.via.map.size; ++i)
    {
        const auto& [key, inner] = value.via.map.ptr[i];
        if (key.type != msgpack::type::STR || !isUtf8({key.via.str.ptr, key.via.str.size}) || !hasProperKeys(inner))
            return false;
        keys.emplace_back(key.via.str.ptr, key.via.str.size);
    }
    std::sort(keys.begin(), keys.end());
    return std::adjacent_find(keys.begin(), keys.end()) == keys.end();
}
} // namespace detail

/// Decodes and validates one message. Allocates; never throws for anything in `parts`.
inline Decoded decode(const std::vector<std::string_view>& parts, const PayloadShape& shape)
{
    if (parts.empty() || parts.front().size() > detail::kMaxHeaderBytes)
        return Fault{error::malformed, "no header, or one of more than 64 KiB"};
    try
    {
        constexpr std::size_t maxElements = 4096, maxDepth = 8;
        const msgpack::unpack_limit limit(maxElements, maxElements, detail::kMaxHeaderBytes, detail::kMaxHeaderBytes,
                                          detail::kMaxHeaderBytes, maxDepth);
        std::size_t offset = 0;
        const msgpack::object_handle handle =
            msgpack::unpack(parts.front().data(), parts.front().size(), offset, nullptr, nullptr, limit);
        const msgpack::object& header = handle.get();
        if (offset != parts.front().size() || header.type != msgpack::type::MAP || !detail::hasProperKeys(header))
            return Fault{error::malformed, "the header is not exactly one map with different text keys"};

        std::string type;
        detail::FieldReader reader(header.via.map, parts, shape);
        reader.text("type", type, 0, detail::kMaxHeaderBytes);
        if (!reader.ok())
            return reader.fault();
        Decoded decoded = detail::decodeNamed(type, reader);
        if (std::holds_alternative<Fault>(decoded) && type == Hello::type && reader.isOfAnotherVersion())
            return Fault{error::protocolVersion, "the other end speaks another protocol: update the older one"};
        return decoded;
    }
    catch (const std::exception& reason) // msgpack reports bad bytes this way
    {
        return Fault{error::malformed, std::string("the header is not msgpack: ") + reason.what()};
    }
}
} // namespace demon
