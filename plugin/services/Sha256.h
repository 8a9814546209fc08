// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <sodium/crypto_hash_sha256.h>
#include <string>
#include <string_view>

namespace demon
{
/// SHA-256 (FIPS 180-4) of bytes that come piece by piece. libsodium computes it: ZeroMQ brings that library along, and
/// unlike OpenSSL no host carries another version of it. Not for the audio thread: a second of stereo takes a
/// millisecond.
class Sha256
{
public:
    Sha256() { crypto_hash_sha256_init(&state); }

    Sha256& append(const void* bytes, std::size_t count)
    {
        crypto_hash_sha256_update(&state, static_cast<const unsigned char*>(bytes), count);
        return *this;
    }
    Sha256& append(std::string_view text) { return append(text.data(), text.size()); }
    Sha256& append(const float* values, std::size_t count)
    {
        return append(static_cast<const void*>(values), count * sizeof(float));
    }

    /// 64 hexadecimal digits of what was appended so far.
    std::string hex() const;

private:
    crypto_hash_sha256_state state{};
};

/// SHA-256 of little-endian float32 values: what receipts hold, on both sides of the wire. [2, N] is planar.
std::string hashFloats(const float* values, std::size_t count);

/// The name of a timbre or structure reference, [2, samples] at `rate`: SHA-256 of the rate in decimal, a line feed,
/// and the values.
std::string referenceHash(int rate, const float* audio, std::int64_t samples);
} // namespace demon
