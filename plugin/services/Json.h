// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "Receipt.h"
#include "demon/messages.h"

/// JSON inside the services; no header of theirs that others include knows of it.
namespace demon::json
{
using Value = nlohmann::ordered_json;

/// Indented by two, with a line feed at the end. Bytes that are not UTF-8 are replaced, never thrown about.
inline std::string write(const Value& value)
{
    return value.dump(2, ' ', false, Value::error_handler_t::replace) + "\n";
}

/// An object, or nothing.
inline std::optional<Value> readObject(std::string_view text)
{
    Value value = Value::parse(text, nullptr, false);
    return value.is_object() ? std::optional(std::move(value)) : std::nullopt;
}

/// The field of an object, or what there is in its place when it is missing or of another kind.
inline std::string textOf(const Value& object, const char* key, const std::string& otherwise = {})
{
    const auto found = object.find(key);
    return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}
inline std::int64_t integerOf(const Value& object, const char* key, std::int64_t otherwise = 0)
{
    const auto found = object.find(key);
    return found != object.end() && found->is_number_integer() ? found->get<std::int64_t>() : otherwise;
}
inline bool boolOf(const Value& object, const char* key, bool otherwise = false)
{
    const auto found = object.find(key);
    return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}
inline std::vector<std::string> textsOf(const Value& object, const char* key)
{
    std::vector<std::string> texts;
    if (const auto found = object.find(key); found != object.end() && found->is_array())
        for (const Value& entry : *found)
            if (entry.is_string())
                texts.push_back(entry.get<std::string>());
    return texts;
}

/// Walks a message's field table (see messages.h) into an object.
struct FieldsToJson
{
    Value& object;

    template <class... Limits> void text(const char* key, const std::string& value, Limits...) { object[key] = value; }
    template <class... Limits> void integer(const char* key, std::int64_t value, Limits...) { object[key] = value; }
    template <class... Limits> void integerOrZero(const char* key, std::int64_t value, Limits...)
    {
        object[key] = value;
    }
    void oneOf(const char* key, const std::string& value, std::initializer_list<const char*>) { object[key] = value; }
    void hashOrNone(const char* key, const std::string& value) { object[key] = value; }
    template <class... Limits> void hashes(const char* key, const std::vector<std::string>& values, Limits...)
    {
        object[key] = values;
    }
};

/// And back. Missing fields keep what they are.
struct FieldsFromJson
{
    const Value& object;

    template <class... Limits> void text(const char* key, std::string& value, Limits...)
    {
        value = textOf(object, key, value);
    }
    template <class... Limits> void integer(const char* key, std::int64_t& value, Limits...)
    {
        value = integerOf(object, key, value);
    }
    template <class... Limits> void integerOrZero(const char* key, std::int64_t& value, Limits...)
    {
        value = integerOf(object, key, value);
    }
    void oneOf(const char* key, std::string& value, std::initializer_list<const char*>)
    {
        value = textOf(object, key, value);
    }
    void hashOrNone(const char* key, std::string& value) { value = textOf(object, key, value); }
    template <class... Limits> void hashes(const char* key, std::vector<std::string>& values, Limits...)
    {
        values = textsOf(object, key);
    }
};

Value fromReceipt(const Receipt& receipt);
std::optional<Receipt> toReceipt(const Value& value);
} // namespace demon::json
