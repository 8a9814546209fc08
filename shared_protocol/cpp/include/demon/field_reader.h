// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <msgpack.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "demon/field_counter.h"
#include "demon/lanes.h"
#include "demon/messages.h"
#include "demon/packing.h"
#include "demon/timebase.h"
#include "demon/utf8.h"

namespace demon
{
/// What the payloads of a track follow from: its `hello`.
struct PayloadShape
{
    int rate = 48000;
    std::vector<std::string> laneIds; ///< columns of a feed's second payload
};

/// Why a message was refused.
struct Fault
{
    const char* code = nullptr; ///< one of demon::error
    std::string text;
};

namespace detail
{
/// Fills a message from its parts and checks every field. Keeps the first fault; later fields are then skipped.
class FieldReader
{
public:
    FieldReader(const msgpack::object_map& fields, const std::vector<std::string_view>& messageParts,
                const PayloadShape& payloadShape)
        : header(fields), parts(messageParts), shape(payloadShape)
    {
    }

    template <class M> void read(M& message)
    {
        expectedParts = 1 + countFields(message).payloads; // the packing of a payload does not change their number
        M::visit(*this, message);
        checkPartCount();
        if (const char* problem = ok() ? problemOf(message, 0) : nullptr)
            fail(error::field, problem);
    }

    void text(const char* key, std::string& out, std::size_t minBytes, std::size_t maxBytes)
    {
        if (const msgpack::object* value = find(key))
            readText(key, *value, out, minBytes, maxBytes);
    }
    void oneOf(const char* key, std::string& out, std::initializer_list<const char*> choices)
    {
        text(key, out, 0, std::numeric_limits<std::size_t>::max());
        if (ok() && std::none_of(choices.begin(), choices.end(), [&](const char* choice) { return out == choice; }))
            fail(error::field, std::string(key) + " must be one of " + join(choices));
    }
    void hexDigits(const char* key, std::string& out, std::size_t digits)
    {
        text(key, out, 0, std::numeric_limits<std::size_t>::max());
        checkHex(key, out, digits);
    }
    void hashOrNone(const char* key, std::string& out)
    {
        text(key, out, 0, std::numeric_limits<std::size_t>::max());
        if (!out.empty())
            checkHex(key, out, kHashDigits);
    }
    /// Content hashes; "" for none.
    void hashes(const char* key, std::vector<std::string>& out, std::size_t maxEntries)
    {
        texts(key, out, maxEntries, std::numeric_limits<std::size_t>::max());
        for (const std::string& hash : out)
            if (!hash.empty())
                checkHex(key, hash, kHashDigits);
    }
    void texts(const char* key, std::vector<std::string>& out, std::size_t maxEntries, std::size_t maxBytes)
    {
        const msgpack::object* value = findList(key, maxEntries);
        for (std::uint32_t i = 0; value != nullptr && i < value->via.array.size && ok(); ++i)
            readText(key, value->via.array.ptr[i], out.emplace_back(), 0, maxBytes);
    }
    void integers(const char* key, std::vector<std::int64_t>& out, std::size_t maxEntries, std::int64_t min,
                  std::int64_t max)
    {
        const msgpack::object* value = findList(key, maxEntries);
        for (std::uint32_t i = 0; value != nullptr && i < value->via.array.size && ok(); ++i)
            checkInteger(key, value->via.array.ptr[i], out.emplace_back(), min, max);
    }
    /// The 40 printable characters of a key in Z85, or none.
    void publicKeyOrNone(const char* key, std::string& out)
    {
        text(key, out, 0, std::numeric_limits<std::size_t>::max());
        const auto isPrintable = [](char c) { return c >= '!' && c <= '~'; };
        if (ok() && !out.empty() && (out.size() != 40 || !std::all_of(out.begin(), out.end(), isPrintable)))
            fail(error::field, std::string(key) + " must be empty, or 40 printable characters");
    }
    void packing(const char* key, std::string& out)
    {
        if (has(key))
            oneOf(key, out, {"none", "zstd"});
        isPacked = ok() && out == "zstd";
    }
    void real(const char* key, double& out, double min, double max)
    {
        const msgpack::object* value = find(key);
        if (value == nullptr)
            return;
        switch (value->type)
        {
        case msgpack::type::FLOAT32:
        case msgpack::type::FLOAT64:
            out = value->via.f64;
            break;
        case msgpack::type::POSITIVE_INTEGER:
            out = static_cast<double>(value->via.u64);
            break;
        case msgpack::type::NEGATIVE_INTEGER:
            out = static_cast<double>(value->via.i64);
            break;
        default:
            return fail(error::malformed, std::string(key) + " must be a number");
        }
        if (!(out >= min && out <= max))
            fail(error::field, std::string(key) + " = " + std::to_string(out) + " is out of range");
    }
    void integerOrZero(const char* key, std::int64_t& out, std::int64_t min, std::int64_t max)
    {
        if (readInteger(key, out) && out != 0 && (out < min || out > max))
            fail(error::field, std::string(key) + " = " + std::to_string(out) + " is neither 0 nor in " +
                                   std::to_string(min) + ".." + std::to_string(max));
    }
    void integer(const char* key, std::int64_t& out, std::int64_t min, std::int64_t max)
    {
        if (const msgpack::object* value = find(key))
            checkInteger(key, *value, out, min, max);
    }
    void rate(const char* key, std::int64_t& out)
    {
        if (readInteger(key, out) && !isSupportedRate(out))
            fail(error::sampleRate,
                 std::string(key) + " = " + std::to_string(out) + " is not a multiple of 25 between 8000 and 192000");
    }
    void boolean(const char* key, bool& out)
    {
        const msgpack::object* value = find(key);
        if (value == nullptr)
            return;
        if (value->type != msgpack::type::BOOLEAN)
            return fail(error::malformed, std::string(key) + " must be a boolean");
        out = value->via.boolean;
    }
    void laneIds(const char* key, std::vector<std::string>& out)
    {
        const msgpack::object* value = findList(key, 256);
        for (std::uint32_t i = 0; value != nullptr && i < value->via.array.size && ok(); ++i)
        {
            std::string id;
            readText(key, value->via.array.ptr[i], id, 1, 32);
            if (std::find(out.begin(), out.end(), id) != out.end())
                fail(error::field, std::string(key) + " names " + id + " twice");
            out.push_back(std::move(id));
        }
    }
    void map(const char* key, Config& out)
    {
        const msgpack::object* value = find(key);
        if (value == nullptr)
            return;
        if (value->type != msgpack::type::MAP)
            return fail(error::malformed, std::string(key) + " must be a map");
        FieldReader inner(value->via.map, parts, shape);
        Config::visit(inner, out);
        if (!inner.ok())
            firstFault = inner.fault();
    }
    void audioPayload(std::vector<float>& out, std::int64_t count)
    {
        const auto frameLength = static_cast<std::size_t>(shape.rate / kFramesPerSecond);
        audio(out, 2 * static_cast<std::size_t>(count) * frameLength);
    }
    void lanePayload(std::vector<float>& out, std::int64_t count)
    {
        payload("lanes", out, static_cast<std::size_t>(count) * shape.laneIds.size());
        if (ok())
            checkLaneRanges(out);
    }
    void editPayload(std::vector<float>& out, std::int64_t count)
    {
        payload("edits", out, 4 * static_cast<std::size_t>(count));
    }
    void piecePayload(std::vector<float>& out, std::int64_t count) { audio(out, 2 * static_cast<std::size_t>(count)); }

    /// Another version's fields may have changed: that is then the fault to report.
    bool isOfAnotherVersion() const
    {
        FieldReader version(header, parts, shape);
        std::int64_t protocol = 0;
        return version.readInteger("protocol", protocol) && protocol != kProtocolVersion;
    }
    bool ok() const { return firstFault.code == nullptr; }
    const Fault& fault() const { return firstFault; }

private:
    static constexpr std::size_t kHashDigits = 64;

    /// What is wrong between fields that are right by themselves, or null.
    template <class M> static auto problemOf(const M& message, int) -> decltype(message.problem())
    {
        return message.problem();
    }
    template <class M> static const char* problemOf(const M&, long) { return nullptr; }

    void checkHex(const char* key, const std::string& value, std::size_t digits)
    {
        const auto isHex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
        if (ok() && (value.size() != digits || !std::all_of(value.begin(), value.end(), isHex)))
            fail(error::field,
                 std::string(key) + " must have " + std::to_string(digits) + " lower-case hexadecimal digits");
    }
    const msgpack::object* findList(const char* key, std::size_t maxEntries)
    {
        const msgpack::object* value = find(key);
        if (value == nullptr)
            return nullptr;
        if (value->type != msgpack::type::ARRAY)
            fail(error::malformed, std::string(key) + " must be a list");
        else if (value->via.array.size > maxEntries)
            fail(error::field, std::string(key) + " has more than " + std::to_string(maxEntries) + " entries");
        return ok() ? value : nullptr;
    }
    /// After the header's fields and before the payloads, which `visit` names last.
    void checkPartCount()
    {
        if (parts.size() != expectedParts)
            fail(error::malformed, std::to_string(parts.size()) + " parts instead of " + std::to_string(expectedParts));
    }
    void fail(const char* code, std::string text)
    {
        if (ok())
            firstFault = {code, std::move(text)};
    }
    const msgpack::object* find(const char* key)
    {
        if (!ok())
            return nullptr;
        const msgpack::object* value = look(key);
        if (value == nullptr)
            fail(error::malformed, std::string("missing field ") + key);
        return value;
    }
    bool has(const char* key) const { return ok() && look(key) != nullptr; }
    const msgpack::object* look(const char* key) const
    {
        const std::string_view wanted(key);
        for (std::uint32_t i = 0; i < header.size; ++i)
        {
            const msgpack::object& name = header.ptr[i].key;
            if (name.type == msgpack::type::STR && wanted == std::string_view(name.via.str.ptr, name.via.str.size))
                return &header.ptr[i].val;
        }
        return nullptr;
    }
    void readText(const char* key, const msgpack::object& value, std::string& out, std::size_t min, std::size_t max)
    {
        if (value.type != msgpack::type::STR)
            return fail(error::malformed, std::string(key) + " must be text");
        const std::string_view bytes(value.via.str.ptr, value.via.str.size);
        if (!isUtf8(bytes))
            return fail(error::malformed, std::string(key) + " is not valid UTF-8");
        if (bytes.size() < min || bytes.size() > max)
            return fail(error::field, std::string(key) + " must have " + std::to_string(min) + ".." +
                                          std::to_string(max) + " bytes, not " + std::to_string(bytes.size()));
        out.assign(bytes);
    }
    bool readInteger(const char* key, std::int64_t& out)
    {
        const msgpack::object* value = find(key);
        return value != nullptr && readInteger(key, *value, out);
    }
    bool readInteger(const char* key, const msgpack::object& value, std::int64_t& out)
    {
        if (value.type == msgpack::type::NEGATIVE_INTEGER)
            out = value.via.i64;
        else if (value.type == msgpack::type::POSITIVE_INTEGER)
            out = static_cast<std::int64_t>(
                std::min<std::uint64_t>(value.via.u64, std::numeric_limits<std::int64_t>::max()));
        else
            fail(error::malformed, std::string(key) + " must be an integer");
        return ok();
    }
    void checkInteger(const char* key, const msgpack::object& value, std::int64_t& out, std::int64_t min,
                      std::int64_t max)
    {
        if (readInteger(key, value, out) && (out < min || out > max))
            fail(error::field, std::string(key) + " = " + std::to_string(out) + " is not in " + std::to_string(min) +
                                   ".." + std::to_string(max));
    }
    void audio(std::vector<float>& out, std::size_t count)
    {
        if (!isPacked)
            return payload("audio", out, count);
        checkPartCount();
        if (!ok())
            return;
        if (const char* problem = unpack(parts[nextPart++], out, count))
            return fail(error::payloadSize, std::string("packed audio ") + problem);
        checkFinite("audio", out);
    }
    void payload(const char* name, std::vector<float>& out, std::size_t count)
    {
        if (!ok())
            return;
        checkPartCount();
        if (!ok())
            return;
        const std::string_view bytes = parts[nextPart++];
        if (bytes.size() != count * sizeof(float))
            return fail(error::payloadSize, std::string(name) + " has " + std::to_string(bytes.size()) +
                                                " bytes instead of " + std::to_string(count * sizeof(float)));
        out.resize(count);
        if (count > 0)
            std::memcpy(out.data(), bytes.data(), bytes.size());
        checkFinite(name, out);
    }
    void checkFinite(const char* name, const std::vector<float>& values)
    {
        if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
            fail(error::notFinite, std::string(name) + " holds NaN or infinity");
    }
    void checkLaneRanges(const std::vector<float>& values)
    {
        for (std::size_t column = 0; column < shape.laneIds.size(); ++column)
        {
            const LaneInfo* info = findLane(shape.laneIds[column]);
            for (std::size_t i = column; info != nullptr && i < values.size(); i += shape.laneIds.size())
                if (values[i] < info->min || values[i] > info->max)
                    return fail(error::laneRange, std::string(info->id) + " = " + std::to_string(values[i]) +
                                                      " is not in " + std::to_string(info->min) + ".." +
                                                      std::to_string(info->max));
        }
    }
    static const LaneInfo* findLane(std::string_view id)
    {
        const auto* found =
            std::find_if(kLanes.begin(), kLanes.end(), [&](const LaneInfo& lane) { return id == lane.id; });
        return found == kLanes.end() ? nullptr : &*found;
    }
    static std::string join(std::initializer_list<const char*> choices)
    {
        std::string text;
        for (const char* choice : choices)
            text += (text.empty() ? "" : ", ") + std::string(choice);
        return text;
    }

    const msgpack::object_map& header;
    const std::vector<std::string_view>& parts;
    const PayloadShape& shape;
    std::size_t nextPart = 1;
    std::size_t expectedParts = 1;
    bool isPacked = false;
    Fault firstFault;
};
} // namespace detail
} // namespace demon
