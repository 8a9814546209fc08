// SPDX-License-Identifier: AGPL-3.0-or-later
// Engines that want keys, and clients that have the right one, a wrong one, or none.
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include "Eventually.h"
#include "FakeEngine.h"
#include "StreamTrack.h"
#include "TemporaryFolder.h"
#include "WaitCount.h"
#include "catch.h"

using namespace demon;
using namespace std::chrono_literals;
using namespace stream_track;

namespace
{
struct KeyPair
{
    KeyPair() { REQUIRE(zmq_curve_keypair(publicKey.data(), secretKey.data()) == 0); }
    std::array<char, 41> publicKey{}, secretKey{};
};

/// A user's machine, with or without a credential file.
struct User
{
    User() : config("XDG_CONFIG_HOME", folder.path.c_str())
    {
        std::filesystem::create_directories(folder / "demon-bridge/engines");
    }
    std::filesystem::path addKey(const std::string& endpoint, const KeyPair& server) const
    {
        return folder.writePrivate("demon-bridge/engines/studio.json",
                                   R"({"endpoint": ")" + endpoint + R"(", "server": ")" + server.publicKey.data() +
                                       R"(", "public": ")" + own.publicKey.data() + R"(", "secret": ")" +
                                       own.secretKey.data() + R"("})");
    }

    const TemporaryFolder folder;
    const ScopedVariable config;
    const KeyPair own;
};

bool showsKeysError(const Track& track, const std::string& text)
{
    return eventually(
        [&]
        {
            const LinkStatus status = track.link.status();
            return status.errorCode == "E_KEYS" && status.errorText.find(text) != std::string::npos;
        });
}

/// Takes connections and ends them, as the end of a tunnel does behind which no engine runs.
class EmptyTunnel
{
public:
    explicit EmptyTunnel(const std::string& endpoint) : handle(socket(AF_INET, SOCK_STREAM, 0))
    {
        const int yes = 1; // an engine will want the port at once
        setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(static_cast<std::uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
        REQUIRE(bind(handle, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(listen(handle, 16) == 0);
        thread = std::thread(
            [this]
            {
                for (int one = accept(handle, nullptr, nullptr); one >= 0; one = accept(handle, nullptr, nullptr))
                {
                    close(one);
                    ++visits;
                }
            });
    }
    ~EmptyTunnel()
    {
        shutdown(handle, SHUT_RDWR);
        thread.join();
        close(handle);
    }
    EmptyTunnel(const EmptyTunnel&) = delete;
    EmptyTunnel& operator=(const EmptyTunnel&) = delete;

    std::atomic<int> visits{0};

private:
    int handle;
    std::thread thread;
};
} // namespace

TEST_CASE("at an address that is not known as this machine's, what is said is encrypted and packed, and as exact")
{
    const User user;
    const KeyPair keys;
    const std::string endpoint = freeEndpoint();
    const std::string address = "tcp://0.0.0.0" + endpoint.substr(endpoint.rfind(':'));
    user.addKey(address, keys);
    FakeEngine engine(endpoint, keys.secretKey.data());
    Track track(address);
    track.play(100);
    CHECK(track.isAllWet());
    CHECK(engine.packedFeeds > 0);
}

TEST_CASE("another machine is not spoken to without keys, and a bounce does not wait for it")
{
    const User user;
    Track track("tcp://192.0.2.1:47800"); // reserved for documents: nobody is there
    const WaitCount waits;
    track.play(100);
    CHECK(waits.count() < WaitCount::ofOneWait(3000));
    CHECK(showsKeysError(track, "no key for tcp://192.0.2.1:47800"));
    CHECK(track.link.status().state != LinkState::ready);
}

TEST_CASE("a key that others may read is not used, and its file is named")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    const std::filesystem::path file = user.addKey(engine.address(), keys);
    std::filesystem::permissions(file, std::filesystem::perms::others_read, std::filesystem::perm_options::add);
    Track track(engine.address());
    CHECK(showsKeysError(track, "chmod 600 '" + file.string() + "'"));
    CHECK(engine.hellos == 0);
    std::filesystem::permissions(file, std::filesystem::perms::others_read, std::filesystem::perm_options::remove);
    CHECK(eventually([&] { return track.link.status().state == LinkState::ready; }));
    CHECK(track.link.status().errorCode.empty());
}

TEST_CASE("a bounce does not wait for an engine that does not accept the key")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    engine.allowsKeys = false;
    user.addKey(engine.address(), keys);
    Track track(engine.address());
    const WaitCount waits;
    track.play(100);
    CHECK(waits.count() < WaitCount::ofOneWait(3000)); // until the refusal, not for the 15 s without one
    CHECK(track.telemetry.timedOut);
    CHECK(showsKeysError(track, "demon keys allow"));
    CHECK(track.link.status().state == LinkState::refused);
}

TEST_CASE("a key that is revoked is an error until it is allowed again")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    user.addKey(engine.address(), keys);
    Track track(engine.address());
    track.play(100);
    engine.allowsKeys = false;
    engine.stop();
    engine.start(); // which ends the connection, as a revocation does
    CHECK(showsKeysError(track, "does not accept this key"));
    engine.allowsKeys = true;
    CHECK(eventually([&] { return track.link.status().state == LinkState::ready; }));
    CHECK(track.link.status().errorCode.empty());
    track.play(100);
    CHECK(track.isAllWet());
}

TEST_CASE("a key error is gone when nobody is there any more")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    engine.allowsKeys = false;
    user.addKey(engine.address(), keys);
    Track track(engine.address());
    REQUIRE(showsKeysError(track, "does not accept this key"));
    engine.stop();
    CHECK(eventually([&] { return track.link.status().errorCode.empty(); }));
}

TEST_CASE("an engine with another key than the file says is named")
{
    const User user;
    const KeyPair keys, others;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    user.addKey(engine.address(), others);
    Track track(engine.address());
    CHECK(showsKeysError(track, "is not the one whose key is in the file"));
    user.addKey(engine.address(), keys);
    CHECK(eventually([&] { return track.link.status().state == LinkState::ready; }));
    CHECK(track.link.status().errorCode.empty());
}

TEST_CASE("an engine without keys is named to a client that has some")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint());
    user.addKey(engine.address(), keys);
    Track track(engine.address());
    CHECK(showsKeysError(track, "takes no keys"));
    CHECK(engine.hellos == 0);
}

TEST_CASE("an engine with keys is named to a client that has none")
{
    const User user;
    const KeyPair keys;
    FakeEngine engine(freeEndpoint(), keys.secretKey.data());
    Track track(engine.address());
    CHECK(showsKeysError(track, "no key for " + engine.address()));
    CHECK(engine.hellos == 0);
}

TEST_CASE("an engine that is not there, or dies, is no matter of keys")
{
    const User user;
    const KeyPair keys;
    const std::string endpoint = freeEndpoint();
    user.addKey(endpoint, keys);
    int errors = 0;
    const auto watch = [&](const Track& track, std::chrono::milliseconds time)
    {
        for (const auto until = std::chrono::steady_clock::now() + time; std::chrono::steady_clock::now() < until;)
        {
            errors += track.link.status().errorCode.empty() ? 0 : 1;
            std::this_thread::sleep_for(5ms);
        }
    };
    Track track(endpoint);
    watch(track, 500ms);
    {
        EmptyTunnel tunnel(endpoint);
        REQUIRE(eventually([&] { return tunnel.visits > 5; }));
        watch(track, 500ms);
    }
    FakeEngine engine(endpoint, keys.secretKey.data());
    for (int life = 0; life < 20; ++life)
    {
        engine.stop();
        engine.start();
        watch(track, std::chrono::milliseconds(10 * life)); // in the handshake, too
    }
    REQUIRE(eventually([&] { return track.link.status().state == LinkState::ready; }));
    CHECK(errors == 0);
}
