// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace demon::detail
{
/// Counts what a message consists of: a msgpack map states its size first, and the parts must be as many as there are
/// payloads, and the header.
struct FieldCounter
{
    std::uint32_t fields = 0;
    std::size_t payloads = 0;

    template <class T, class... Rest> void text(const char*, const T&, Rest...) { ++fields; }
    template <class... Rest> void integer(Rest...) { ++fields; }
    template <class T> void oneOf(const char*, const T&, std::initializer_list<const char*>) { ++fields; }
    template <class T> void hexDigits(const char*, const T&, std::size_t) { ++fields; }
    template <class T> void laneIds(const char*, const T&) { ++fields; }
    template <class T> void hashOrNone(const char*, const T&) { ++fields; }
    template <class T> void hashes(const char*, const T&, std::size_t) { ++fields; }
    template <class T> void texts(const char*, const T&, std::size_t, std::size_t) { ++fields; }
    template <class... Rest> void integerOrZero(Rest...) { ++fields; }
    template <class... Rest> void real(Rest...) { ++fields; }
    template <class T> void map(const char*, const T&) { ++fields; }
    template <class T> void integers(const char*, const T&, std::size_t, std::int64_t, std::int64_t) { ++fields; }
    template <class T> void publicKeyOrNone(const char*, const T&) { ++fields; }
    /// Left out where it says nothing.
    template <class T> void packing(const char*, const T& value) { fields += value == "none" ? 0 : 1; }
    void rate(const char*, std::int64_t) { ++fields; }
    void boolean(const char*, bool) { ++fields; }
    template <class T> void audioPayload(const T&, std::int64_t) { ++payloads; }
    template <class T> void lanePayload(const T&, std::int64_t) { ++payloads; }
    template <class T> void editPayload(const T&, std::int64_t) { ++payloads; }
    template <class T> void piecePayload(const T&, std::int64_t) { ++payloads; }
};

template <class M> FieldCounter countFields(const M& message)
{
    FieldCounter counter;
    M::visit(counter, message);
    return counter;
}
} // namespace demon::detail
