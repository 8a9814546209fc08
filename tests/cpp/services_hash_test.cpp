// SPDX-License-Identifier: AGPL-3.0-or-later
#include <string>
#include <vector>

#include "catch.h"
#include "services/Sha256.h"

using namespace demon;

TEST_CASE("SHA-256 gives the digests of FIPS 180-4's examples")
{
    CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(Sha256().append("abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(Sha256().append("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").hex() ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(Sha256().append(std::string(1'000'000, 'a')).hex() ==
          "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("a digest does not depend on the pieces, and may be asked for in between")
{
    const std::string text(1000, 'x');
    for (const std::size_t piece : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{65}})
    {
        Sha256 hash;
        for (std::size_t at = 0; at < text.size(); at += piece)
        {
            hash.append(std::string_view(text).substr(at, piece));
            hash.hex();
        }
        CHECK(hash.hex() == Sha256().append(text).hex());
    }
}

TEST_CASE("hashes of audio are those of engine_server/tracks/receipt.py and of the protocol's references")
{
    // numpy: hashlib.sha256(np.array([[0, 1, -1.5], [0.25, -0.0, 3]], "<f4").tobytes()).hexdigest()
    const std::vector<float> audio{0.0f, 1.0f, -1.5f, 0.25f, -0.0f, 3.0f};
    CHECK(hashFloats(audio.data(), audio.size()) == "ea166f44a7ef3258dd2a1c54b18fe41888501cf196605c5e5909f77711e2a336");
    CHECK(referenceHash(44100, audio.data(), 3) ==
          "7d160f2f100816214f3a2d8e303dfe431b044c916eb4af4b39d186c76218b01c"); // of b"44100\n" and the same bytes
}
