// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Sha256.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "hashes are over little-endian values: add byte swapping before using this on a big-endian machine"
#endif

namespace demon
{
std::string Sha256::hex() const
{
    crypto_hash_sha256_state copy = state;
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256_final(&copy, digest.data());
    std::string text;
    for (const unsigned char byte : digest)
        for (const int shift : {4, 0})
            text += "0123456789abcdef"[(byte >> shift) & 15];
    return text;
}

std::string hashFloats(const float* values, std::size_t count) { return Sha256().append(values, count).hex(); }

std::string referenceHash(int rate, const float* audio, std::int64_t samples)
{
    return Sha256().append(std::to_string(rate) + "\n").append(audio, 2 * static_cast<std::size_t>(samples)).hex();
}
} // namespace demon
