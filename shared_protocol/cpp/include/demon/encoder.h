// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <msgpack.hpp>
#include <string>
#include <utility>
#include <vector>

#include "demon/field_counter.h"
#include "demon/messages.h"
#include "demon/packing.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "payloads are little-endian: add byte swapping before using this on a big-endian machine"
#endif

namespace demon
{
/// A message on the wire: one header, then its payloads.
using Parts = std::vector<std::string>;

namespace detail
{
/// Writes the canonical bytes: fields in table order, shortest integers and strings.
class FieldWriter
{
public:
    explicit FieldWriter(Parts& messageParts) : parts(messageParts) {}

    void beginMap(std::uint32_t size) { packer.pack_map(size); }
    void type(const char* name) { text("type", std::string(name), 0, 0); }
    void text(const char* key, const std::string& value, std::size_t, std::size_t)
    {
        string(key, std::strlen(key));
        string(value.data(), value.size());
    }
    void oneOf(const char* key, const std::string& value, std::initializer_list<const char*>)
    {
        text(key, value, 0, 0);
    }
    void hexDigits(const char* key, const std::string& value, std::size_t) { text(key, value, 0, 0); }
    void integer(const char* key, std::int64_t value, std::int64_t, std::int64_t)
    {
        string(key, std::strlen(key));
        packer.pack_int64(value);
    }
    void integerOrZero(const char* key, std::int64_t value, std::int64_t, std::int64_t) { integer(key, value, 0, 0); }
    void real(const char* key, double value, double, double)
    {
        string(key, std::strlen(key));
        // Not pack_double: newer versions of msgpack-c shorten whole numbers to integers.
        std::uint64_t bits = 0;
        std::memcpy(&bits, &value, sizeof bits);
        char bytes[9] = {'\xcb'};
        for (int i = 0; i < 8; ++i)
            bytes[1 + i] = static_cast<char>(bits >> (56 - 8 * i) & 0xFFu);
        header.write(bytes, sizeof bytes);
    }
    void rate(const char* key, std::int64_t value) { integer(key, value, 0, 0); }
    void boolean(const char* key, bool value)
    {
        string(key, std::strlen(key));
        value ? packer.pack_true() : packer.pack_false();
    }
    void laneIds(const char* key, const std::vector<std::string>& ids) { texts(key, ids, 0, 0); }
    void hashes(const char* key, const std::vector<std::string>& values, std::size_t) { texts(key, values, 0, 0); }
    void hashOrNone(const char* key, const std::string& value) { text(key, value, 0, 0); }
    void texts(const char* key, const std::vector<std::string>& values, std::size_t, std::size_t)
    {
        string(key, std::strlen(key));
        packer.pack_array(static_cast<std::uint32_t>(values.size()));
        for (const std::string& value : values)
            string(value.data(), value.size());
    }
    void integers(const char* key, const std::vector<std::int64_t>& values, std::size_t, std::int64_t, std::int64_t)
    {
        string(key, std::strlen(key));
        packer.pack_array(static_cast<std::uint32_t>(values.size()));
        for (const std::int64_t value : values)
            packer.pack_int64(value);
    }
    void publicKeyOrNone(const char* key, const std::string& value) { text(key, value, 0, 0); }
    void packing(const char* key, const std::string& value)
    {
        if (value != "none")
            text(key, value, 0, 0);
    }
    void map(const char* key, const Config& config)
    {
        string(key, std::strlen(key));
        beginMap(countFields(config).fields);
        Config::visit(*this, config);
    }
    void audioPayload(const std::vector<float>& values, std::int64_t) { payload(values); }
    void lanePayload(const std::vector<float>& values, std::int64_t) { payload(values); }
    void editPayload(const std::vector<float>& values, std::int64_t) { payload(values); }
    void piecePayload(const std::vector<float>& values, std::int64_t) { payload(values); }

    std::string takeHeader() { return {header.data(), header.size()}; }

private:
    void string(const char* data, std::size_t size)
    {
        packer.pack_str(static_cast<std::uint32_t>(size));
        packer.pack_str_body(data, static_cast<std::uint32_t>(size));
    }
    void payload(const std::vector<float>& values)
    {
        parts.emplace_back(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    }

    Parts& parts;
    msgpack::sbuffer header;
    msgpack::packer<msgpack::sbuffer> packer{header};
};

template <class M> Parts encodeUnpacked(const M& message)
{
    Parts parts(1);
    FieldWriter writer(parts);
    writer.beginMap(countFields(message).fields + 1);
    writer.type(M::type);
    M::visit(writer, message);
    parts.front() = writer.takeHeader();
    return parts;
}

/// With its audio packed; as it is, and said to be so, where that is no longer.
template <class M> Parts encodePacked(M message)
{
    std::string audio = packed(message.audio);
    if (audio.empty())
        message.packing = "none";
    else
        message.audio.clear();
    Parts parts = encodeUnpacked(message);
    if (!audio.empty())
        parts[1] = std::move(audio);
    return parts;
}
} // namespace detail

/// The canonical bytes of one message; packed audio has none. Allocates. Does not check ranges: the sender's own types
/// do.
template <class M> Parts encode(const M& message)
{
    if constexpr (isPackable<M>)
        if (message.packing == "zstd")
            return detail::encodePacked(message);
    return detail::encodeUnpacked(message);
}

inline Parts encode(const Message& message)
{
    return std::visit([](const auto& m) { return encode(m); }, message);
}
} // namespace demon
