// SPDX-License-Identifier: AGPL-3.0-or-later
// Renders from the link's words to files, takes and back.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <vector>

#include "TemporaryFolder.h"
#include "catch.h"
#include "core/StaleWatch.h"
#include "services/AudioFile.h"
#include "services/FrozenStore.h"
#include "services/RenderFolder.h"
#include "services/RenderRecorder.h"
#include "services/Sha256.h"
#include "services/WholeFile.h"

using namespace demon;

namespace
{
constexpr int kRate = 8000;
constexpr int kFrame = 320;

EngineFacts someEngine()
{
    EngineFacts facts;
    facts.demon = "0.1.0";
    facts.checkpoint = "small";
    facts.checkpointSha256 = std::string(64, 'c');
    facts.backend = "eager";
    facts.lanes = {wireLaneIds()[2], wireLaneIds()[0]};
    return facts;
}

/// The input of an epoch and what a small engine makes of it: the negative.
struct Material
{
    std::vector<std::vector<float>> frames; ///< each [2, kFrame]
    std::vector<WireLaneValues> lanes;

    explicit Material(std::size_t count, unsigned seed = 1)
    {
        std::mt19937 random(seed);
        std::uniform_real_distribution<float> values(-1.0f, 1.0f);
        for (std::size_t i = 0; i < count; ++i)
        {
            frames.emplace_back(2 * kFrame);
            for (float& value : frames.back())
                value = values(random);
            lanes.emplace_back();
            for (float& value : lanes.back())
                value = values(random);
        }
    }

    std::vector<float> result(std::size_t frame) const
    {
        std::vector<float> audio = frames[frame];
        for (float& value : audio)
            value = -value;
        return audio;
    }

    /// [2, N] of the input, or of the result.
    std::vector<float> planar(float sign) const
    {
        std::vector<float> audio;
        for (std::size_t channel = 0; channel < 2; ++channel)
            for (const auto& frame : frames)
                for (std::size_t i = 0; i < kFrame; ++i)
                    audio.push_back(sign * frame[channel * kFrame + i]);
        return audio;
    }
};

void deliver(RenderRecorder& recorder, std::int32_t epoch, std::int64_t frame, const std::vector<float>& audio)
{
    recorder.deliver(epoch, frame, audio.data(), audio.data() + kFrame);
}

/// A whole run: fed and delivered with a latency of ten frames, ended, closed.
void play(RenderRecorder& recorder, const Material& material, std::int64_t firstFrame = 0, std::int32_t epoch = 1,
          bool offline = true)
{
    constexpr std::size_t latency = 10;
    const std::size_t count = material.frames.size();
    recorder.begin(epoch, kRate, firstFrame * kFrame, offline);
    for (std::size_t i = 0; i < count + latency; ++i)
    {
        if (i < count)
            recorder.feed(epoch, firstFrame + static_cast<std::int64_t>(i), material.frames[i], material.lanes[i]);
        if (i == count)
            recorder.end(epoch, firstFrame + static_cast<std::int64_t>(count));
        if (i >= latency)
            deliver(recorder, epoch, firstFrame + static_cast<std::int64_t>(i - latency), material.result(i - latency));
    }
    recorder.close(epoch);
    recorder.flush();
}

std::size_t countFiles(const std::filesystem::path& folder, const std::string& ending)
{
    std::size_t count = 0;
    if (std::filesystem::is_directory(folder))
        for (const auto& entry : std::filesystem::directory_iterator(folder))
        {
            const std::string name = entry.path().filename().string();
            count += name.size() >= ending.size() && name.substr(name.size() - ending.size()) == ending ? 1 : 0;
        }
    return count;
}

/// A finished render of `material`, and the recorder that made it.
struct Recorded
{
    TemporaryFolder folder;
    RenderRecorder recorder{folder / "renders"};
    std::shared_ptr<const Render> render;

    explicit Recorded(const Material& material, std::int64_t firstFrame = 0)
    {
        recorder.setEngine(someEngine());
        play(recorder, material, firstFrame);
        render = recorder.lastRender();
        REQUIRE(render != nullptr);
    }
};
} // namespace

TEST_CASE("a bounce becomes a WAV with its bits, and a receipt with the hashes of everything")
{
    const Material material(100);
    const TemporaryFolder folder;
    RenderRecorder recorder(folder / "renders");
    Config config;
    config.prompt = "strings \"and\" \\ \n horns \xC3\xA9";
    config.seed = 7;
    recorder.setConfig(config);
    recorder.setEngine(someEngine());
    play(recorder, material, -3);
    const auto render = recorder.lastRender();
    REQUIRE(render != nullptr);
    CHECK(!recorder.problem());

    const auto clip = std::get<AudioClip>(readAudioFile(render->wav));
    CHECK(clip.rate == kRate);
    CHECK((clip.audio == material.planar(-1.0f)));

    const auto source = material.planar(1.0f), result = material.planar(-1.0f);
    std::vector<float> lanes; // [frames, lanes], in the engine's order
    for (const WireLaneValues& values : material.lanes)
        lanes.insert(lanes.end(), {values[2], values[0]});
    const auto receipt = receiptFromJson(*readWholeFile(render->receiptFile));
    REQUIRE(receipt);
    CHECK(receipt->sourceSha256 == hashFloats(source.data(), source.size()));
    CHECK(receipt->resultSha256 == hashFloats(result.data(), result.size()));
    CHECK(receipt->lanesSha256 == hashFloats(lanes.data(), lanes.size()));
    CHECK(receipt->engine == someEngine());
    CHECK(receipt->config == config);
    CHECK(receipt->rate == kRate);
    CHECK(receipt->samples == 100 * kFrame);
    CHECK(receipt->position == -3 * kFrame);
    CHECK(receipt->isComplete);
    CHECK(receipt->isOffline);
    CHECK(receipt->changes == 0);
    CHECK(render->wav.filename() == receipt->resultSha256.substr(0, 16) + ".wav");
    CHECK(countFiles(folder / "renders", ".part") == 0);
}

TEST_CASE("a receipt has the fields of engine_server/tracks/receipt.py first, in their order")
{
    Receipt receipt;
    receipt.lanes = {{"denoise", "0.6"}, {"velocity", "0.2 to 0.9"}};
    const std::string text = toJson(receipt);
    std::size_t at = 0;
    for (const char* key : {"demon", "protocol", "checkpoint", "checkpoint_sha256", "backend", "libraries", "processor",
                            "rate", "samples", "config", "source_sha256", "lanes_sha256", "lanes", "result_sha256",
                            "position", "offline", "complete", "missing_frames", "changes"})
    {
        INFO(key);
        const std::size_t found = text.find("\n  \"" + std::string(key) + "\": ");
        REQUIRE(found != std::string::npos);
        CHECK(found >= at);
        at = found;
    }
    CHECK(text.find("\"denoise\": \"0.6\"") != std::string::npos);
    CHECK(receiptFromJson(text)->lanes == receipt.lanes);
    CHECK(!receiptFromJson("[1, 2]"));
    CHECK(!receiptFromJson("{\"rate\": 1}"));
    CHECK(!receiptFromJson("no"));
    CHECK(describeRange(0.6f, 0.6f) == "0.6");
    CHECK(describeRange(-60.0f, 0.25f) == "-60 to 0.25");
}

TEST_CASE("the same bounce twice is one file, and another one another")
{
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    play(recorder, Material(30), 0, 1);
    const auto first = recorder.lastRender();
    const std::string receipt = *readWholeFile(first->receiptFile);
    play(recorder, Material(30), 0, 2);
    CHECK(recorder.lastRender()->wav == first->wav);
    CHECK(*readWholeFile(first->receiptFile) == receipt);
    CHECK(countFiles(folder.path, ".wav") == 1);
    play(recorder, Material(30, 2), 0, 3);
    CHECK(recorder.lastRender()->wav != first->wav);
    CHECK(countFiles(folder.path, ".wav") == 2);
}

TEST_CASE("windows that are left out are silence, counted, and the render is not complete")
{
    const Material material(40);
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    recorder.begin(1, kRate, 0, false);
    for (std::size_t i = 0; i < 40; ++i)
        recorder.feed(1, static_cast<std::int64_t>(i), material.frames[i], material.lanes[i]);
    for (std::size_t i = 0; i < 40; ++i)
    {
        if (i < 10 || i >= 15)
            deliver(recorder, 1, static_cast<std::int64_t>(i), material.result(i));
        if (i >= 3)
            deliver(recorder, 1, 3, material.result(3)); // a repeat
    }
    recorder.end(1, 40);
    recorder.flush();
    const auto render = recorder.lastRender();
    REQUIRE(render != nullptr);
    CHECK(!render->receipt.isComplete);
    CHECK(!render->receipt.isOffline);
    CHECK(render->receipt.missingFrames == 5);
    auto expected = material.planar(-1.0f);
    for (const std::size_t channel : {0, 1})
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(channel * 40 * kFrame + 10 * kFrame), 5 * kFrame,
                    0.0f);
    CHECK((std::get<AudioClip>(readAudioFile(render->wav)).audio == expected));
    CHECK(std::get<Problem>(FrozenStore::freeze(*render, folder / "frozen")).code == "E_FROZEN_INCOMPLETE");
}

TEST_CASE("what breaks off is kept when it has lasted a second, and else leaves nothing behind")
{
    const Material material(60);
    for (const std::size_t delivered : {0u, 24u, 25u})
    {
        INFO(delivered);
        const TemporaryFolder folder;
        {
            RenderRecorder recorder(folder.path);
            recorder.setEngine(someEngine());
            recorder.begin(1, kRate, 0, false);
            for (std::size_t i = 0; i < 60; ++i)
                recorder.feed(1, static_cast<std::int64_t>(i), material.frames[i], material.lanes[i]);
            for (std::size_t i = 0; i < delivered; ++i)
                deliver(recorder, 1, static_cast<std::int64_t>(i), material.result(i));
        } // the destructor closes
        CHECK(countFiles(folder.path, ".wav") == (delivered >= 25 ? 1 : 0));
        CHECK(countFiles(folder.path, ".json") == (delivered >= 25 ? 1 : 0));
        CHECK(countFiles(folder.path, ".part") == 0);
    }
}

TEST_CASE("a change of configuration or engine in the middle is counted, a repeat is not")
{
    const Material material(30);
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    recorder.begin(1, kRate, 0, true);
    for (std::size_t i = 0; i < 30; ++i)
    {
        recorder.feed(1, static_cast<std::int64_t>(i), material.frames[i], material.lanes[i]);
        deliver(recorder, 1, static_cast<std::int64_t>(i), material.result(i));
        Config config;
        config.seed = i < 10 ? 0 : 9;
        EngineFacts engine = someEngine();
        engine.backend = i < 20 ? "eager" : "compile";
        recorder.setConfig(config);
        recorder.setEngine(engine);
    }
    recorder.end(1, 30);
    recorder.flush();
    CHECK(recorder.lastRender()->receipt.changes == 2);
    CHECK(recorder.lastRender()->receipt.config.seed == 9);
}

TEST_CASE("two epochs in flight do not touch each other")
{
    const Material first(30, 1), second(30, 2);
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    recorder.begin(1, kRate, 0, true);
    recorder.begin(2, kRate, 0, true);
    for (std::size_t i = 0; i < 30; ++i)
    {
        const auto frame = static_cast<std::int64_t>(i);
        recorder.feed(1, frame, first.frames[i], first.lanes[i]);
        recorder.feed(2, frame, second.frames[i], second.lanes[i]);
        deliver(recorder, 2, frame, second.result(i));
        deliver(recorder, 1, frame, first.result(i));
    }
    recorder.end(1, 30);
    recorder.flush();
    CHECK((std::get<AudioClip>(readAudioFile(recorder.lastRender()->wav)).audio == first.planar(-1.0f)));
    recorder.end(2, 30);
    recorder.flush();
    CHECK((std::get<AudioClip>(readAudioFile(recorder.lastRender()->wav)).audio == second.planar(-1.0f)));
}

TEST_CASE("live renders are not kept when the user does not want them")
{
    const TemporaryFolder folder;
    RecorderLimits limits;
    limits.keepsLive = false;
    RenderRecorder recorder(folder.path, limits);
    recorder.setEngine(someEngine());
    play(recorder, Material(30), 0, 1, false);
    CHECK(recorder.lastRender() == nullptr);
    play(recorder, Material(30), 0, 2, true);
    CHECK(recorder.lastRender() != nullptr);
}

TEST_CASE("a render that broke off does not hide the complete one before it, and a problem can be acknowledged")
{
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    CHECK(recorder.lastComplete() == nullptr);
    play(recorder, Material(30, 1), 0, 1);
    const auto complete = recorder.lastRender();
    CHECK(recorder.lastComplete() == complete);
    const Material material(60, 2);
    recorder.begin(2, kRate, 0, false);
    for (std::size_t i = 0; i < 60; ++i)
        recorder.feed(2, static_cast<std::int64_t>(i), material.frames[i], material.lanes[i]);
    for (std::size_t i = 0; i < 30; ++i)
        deliver(recorder, 2, static_cast<std::int64_t>(i), material.result(i));
    recorder.close(2);
    recorder.flush();
    REQUIRE(recorder.lastRender() != nullptr);
    CHECK_FALSE(recorder.lastRender()->receipt.isComplete);
    CHECK(recorder.lastComplete() == complete);

    recorder.begin(3, kRate, 0, false);
    recorder.feed(3, 7, material.frames[0], material.lanes[0]); // not the first frame
    recorder.flush();
    REQUIRE(recorder.problem());
    recorder.acknowledge();
    CHECK_FALSE(recorder.problem());
    std::filesystem::remove(complete->wav);
    CHECK(recorder.lastComplete() == nullptr);
}

TEST_CASE("beyond the budget the oldest renders go, with their receipts, and never the newest")
{
    const TemporaryFolder folder;
    constexpr std::uint64_t oneRender = 50 * 2 * kFrame * 4;
    RecorderLimits limits;
    limits.diskBytes = 6 * oneRender;
    RenderRecorder recorder(folder.path, limits);
    recorder.setEngine(someEngine());
    std::vector<std::filesystem::path> wavs;
    for (unsigned i = 1; i <= 9; ++i)
    {
        play(recorder, Material(50, i), 0, static_cast<std::int32_t>(i));
        wavs.push_back(recorder.lastRender()->wav);
        const auto age = std::chrono::seconds(100 - i); // file systems' clocks are coarse
        std::filesystem::last_write_time(wavs.back(), std::filesystem::file_time_type::clock::now() - age);
    }
    CHECK(countFiles(folder.path, ".wav") == 5); // the sixth does not fit with its header
    CHECK(countFiles(folder.path, ".receipt.json") == 5);
    for (std::size_t i = 0; i < wavs.size(); ++i)
        CHECK(std::filesystem::exists(wavs[i]) == (i >= 4));
    renderFolder::makeRoom(folder.path, 0, wavs.back());
    CHECK(countFiles(folder.path, ".wav") == 1);
    std::filesystem::remove(wavs.back());
    CHECK(recorder.lastRender() == nullptr);
}

TEST_CASE("a render larger than half the budget is cut there, and says that it is not complete")
{
    const TemporaryFolder folder;
    RecorderLimits limits;
    limits.diskBytes = 100 * 4 * 4 * kFrame;
    RenderRecorder recorder(folder.path, limits);
    recorder.setEngine(someEngine());
    play(recorder, Material(200));
    REQUIRE(recorder.lastRender() != nullptr);
    CHECK(!recorder.lastRender()->receipt.isComplete);
    CHECK(recorder.lastRender()->receipt.samples < 60 * kFrame);
}

TEST_CASE("a full disk is a problem that is shown, and passes")
{
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    std::signal(SIGXFSZ, SIG_IGN); // as a full disk, a limit on files makes writing fail
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    rlimit small = before;
    small.rlim_cur = 60'000;
    setrlimit(RLIMIT_FSIZE, &small);
    play(recorder, Material(100));
    setrlimit(RLIMIT_FSIZE, &before);
    REQUIRE(recorder.problem());
    CHECK(recorder.problem()->code == "E_RENDER");
    CHECK(recorder.lastRender() == nullptr);
    CHECK(std::filesystem::is_empty(folder.path));
    play(recorder, Material(100), 0, 2);
    CHECK(!recorder.problem());
    CHECK(recorder.lastRender() != nullptr);
}

TEST_CASE("a folder that cannot be made is a problem that is shown")
{
    const TemporaryFolder folder;
    folder.write("file", "in the way");
    RenderRecorder recorder(folder / "file/renders");
    play(recorder, Material(30));
    REQUIRE(recorder.problem());
    CHECK(recorder.problem()->code == "E_RENDER");
}

TEST_CASE("a disk that does not keep up costs the render and no memory")
{
    const TemporaryFolder folder;
    RecorderLimits limits;
    limits.waitingBytes = 0;
    RenderRecorder recorder(folder.path, limits);
    recorder.setEngine(someEngine());
    const Material material(30);
    recorder.begin(1, kRate, 0, true);
    for (int i = 0; i < 100000 && !recorder.problem(); ++i)
        recorder.feed(1, i, material.frames[0], material.lanes[0]);
    recorder.flush();
    REQUIRE(recorder.problem());
    CHECK(recorder.problem()->code == "E_RENDER");
}

TEST_CASE("input that nobody answers is not kept for ever")
{
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    const Material material(1);
    recorder.begin(1, kRate, 0, false);
    for (std::int64_t i = 0; i < RenderFile::kMaxUnansweredFrames + 10; ++i)
    {
        recorder.feed(1, i, material.frames[0], material.lanes[0]);
        if (i % 100 == 0)
            recorder.flush();
    }
    recorder.flush();
    CHECK(recorder.problem());
    CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("what a killed process has left goes after a day")
{
    const TemporaryFolder folder;
    folder.write(".render.1-1.part", "old");
    folder.write(".render.1-2.part", "new");
    std::filesystem::last_write_time(folder / ".render.1-1.part",
                                     std::filesystem::file_time_type::clock::now() - std::chrono::hours(25));
    RenderRecorder(folder.path).flush();
    CHECK(!std::filesystem::exists(folder / ".render.1-1.part"));
    CHECK(std::filesystem::exists(folder / ".render.1-2.part"));
}

TEST_CASE("a frozen take comes back with its bits, its place and its receipt")
{
    const Material material(50);
    Recorded recorded(material, 100);
    const auto id = std::get<std::string>(FrozenStore::freeze(*recorded.render, recorded.folder / "project"));
    CHECK(id == std::get<std::string>(FrozenStore::freeze(*recorded.render, recorded.folder / "project")));
    renderFolder::makeRoom(recorded.folder / "renders", 0, {}); // frozen takes do not need the render any more

    const FrozenStore store({recorded.folder / "nowhere", recorded.folder / "project"});
    const auto loaded = store.load(id, kRate);
    REQUIRE(!hasFailed(loaded));
    const FrozenTake& take = *std::get<std::shared_ptr<const FrozenTake>>(loaded);
    CHECK(take.id == id);
    CHECK(take.firstFrame == 100);
    CHECK(take.frameCount == 50);
    CHECK(take.receipt.engine == someEngine());
    for (std::int64_t frame = 100; frame < 150; ++frame)
    {
        const auto expected = material.result(static_cast<std::size_t>(frame - 100));
        REQUIRE(std::equal(expected.begin(), expected.begin() + kFrame, take.frame(frame, 0)));
        REQUIRE(std::equal(expected.begin() + kFrame, expected.end(), take.frame(frame, 1)));
        REQUIRE((take.inputHash(frame) != 0) == (frame != 149)); // the last frame may be a part of one
    }
    CHECK(take.frame(99, 0) == nullptr);
    CHECK(take.frame(150, 0) == nullptr);
    CHECK(take.inputHash(99) == 0);
    CHECK(take.inputHash(150) == 0);
}

TEST_CASE("a frozen take plays at another rate, where nothing can be said about its input")
{
    Recorded recorded(Material(50));
    const auto id = std::get<std::string>(FrozenStore::freeze(*recorded.render, recorded.folder / "frozen"));
    const auto loaded = FrozenStore({recorded.folder / "frozen"}).load(id, 16000);
    REQUIRE(!hasFailed(loaded));
    const FrozenTake& take = *std::get<std::shared_ptr<const FrozenTake>>(loaded);
    CHECK(take.rate == 16000);
    CHECK(take.frameCount == 50);
    CHECK(take.inputHash(10) == 0);
    CHECK(take.frame(49, 1) != nullptr);
    CHECK(std::get<Problem>(FrozenStore({recorded.folder / "frozen"}).load(id, 11027)).code == "E_SAMPLE_RATE");
}

TEST_CASE("a frozen take that is missing or has been changed is named plainly")
{
    Recorded recorded(Material(50));
    const auto frozen = recorded.folder / "frozen";
    const auto id = std::get<std::string>(FrozenStore::freeze(*recorded.render, frozen));
    const FrozenStore store({frozen});
    const auto description = frozen / (id.substr(0, 32) + ".frozen.json");
    const auto wav = frozen / (recorded.render->receipt.resultSha256.substr(0, 32) + ".wav");
    const std::string goodText = *readWholeFile(description), goodAudio = *readWholeFile(wav);
    const auto problem = [&] { return std::get<Problem>(store.load(id, kRate)); };

    std::filesystem::remove(wav);
    CHECK(problem().code == "E_FROZEN_MISSING");
    CHECK(problem().text.find(wav.filename().string()) != std::string::npos);
    CHECK(problem().text.find(frozen.string()) != std::string::npos);

    std::string bad = goodAudio;
    bad[bad.size() - 100] = static_cast<char>(bad[bad.size() - 100] ^ 1);
    writeWholeFile(wav, bad);
    CHECK(problem().code == "E_FROZEN_CORRUPT");
    writeWholeFile(wav, goodAudio.substr(0, goodAudio.size() / 2));
    CHECK(problem().code == "E_FROZEN_CORRUPT");
    writeWholeFile(wav, "");
    CHECK(problem().code == "E_FROZEN_CORRUPT");
    writeWholeFile(wav, goodAudio);
    CHECK(!hasFailed(store.load(id, kRate)));

    writeWholeFile(description, goodText + " ");
    CHECK(problem().code == "E_FROZEN_CORRUPT");
    std::filesystem::remove(description);
    CHECK(problem().code == "E_FROZEN_MISSING");
    CHECK(std::get<Problem>(store.load("../../etc/passwd", kRate)).code == "E_FROZEN_CORRUPT");

    const std::string foreign = "{\"version\": 2}";
    const std::string foreignId = Sha256().append(foreign).hex();
    writeWholeFile(frozen / (foreignId.substr(0, 32) + ".frozen.json"), foreign);
    CHECK(std::get<Problem>(store.load(foreignId, kRate)).code == "E_FROZEN_CORRUPT");
    std::filesystem::remove(recorded.render->wav);
    CHECK(std::get<Problem>(FrozenStore::freeze(*recorded.render, frozen)).code == "E_FROZEN_MISSING");
}

TEST_CASE("a frame's hash does not depend on blocks, and on every sample and lane")
{
    const Material material(1);
    const std::vector<float>& audio = material.frames[0];
    const auto hashOf = [&](std::vector<float> samples, const WireLaneValues& lanes, std::size_t block)
    {
        FrameHasher hasher;
        for (std::size_t at = 0; at < kFrame; at += block)
            hasher.append(samples.data() + at, samples.data() + kFrame + at, std::min(block, kFrame - at));
        return hasher.finish(lanes.data(), lanes.size());
    };
    const std::uint64_t whole = hashOf(audio, material.lanes[0], kFrame);
    for (const std::size_t block : {1u, 7u, 64u, 319u})
        CHECK(hashOf(audio, material.lanes[0], block) == whole);
    for (std::size_t i = 0; i < audio.size(); ++i)
    {
        auto other = audio;
        other[i] += 1e-4f;
        REQUIRE(hashOf(other, material.lanes[0], kFrame) != whole);
    }
    for (std::size_t i = 0; i < kWireLaneCount; ++i)
    {
        auto other = material.lanes[0];
        other[i] += 1e-4f;
        REQUIRE(hashOf(audio, other, kFrame) != whole);
    }
    auto swapped = audio;
    std::rotate(swapped.begin(), swapped.begin() + kFrame, swapped.end());
    CHECK(hashOf(swapped, material.lanes[0], kFrame) != whole);
    CHECK(hashOf(std::vector<float>(2 * kFrame, -0.0f), {}, 10) ==
          hashOf(std::vector<float>(2 * kFrame, 0.0f), {}, 10));
}

TEST_CASE("stale frames are those whose audio or lanes have changed, whatever the blocks")
{
    const Material material(50);
    Recorded recorded(material, 10);
    const auto id = std::get<std::string>(FrozenStore::freeze(*recorded.render, recorded.folder / "frozen"));
    const auto take =
        std::get<std::shared_ptr<const FrozenTake>>(FrozenStore({recorded.folder / "frozen"}).load(id, kRate));

    std::vector<float> audio = material.planar(1.0f);
    audio[20 * kFrame + 5] += 0.25f;  // frame 30, left
    audio[(50 + 21) * kFrame] = 0.0f; // frame 31, right
    const auto lanesAt = [&](std::int64_t frame)
    {
        WireLaneValues lanes = material.lanes[static_cast<std::size_t>(std::clamp<std::int64_t>(frame - 10, 0, 49))];
        lanes[1] += 1.0f; // a lane that the engine does not act on
        lanes[2] += frame == 40 ? 0.5f : 0.0f;
        return lanes;
    };
    for (const std::int64_t block : {64, 100, 320, 333, 5000})
    {
        INFO("blocks of " << block);
        StaleWatch watch(frozenAudioOf(take));
        // Lanes change where a frame begins, so a block ends there, as hosts that split blocks do.
        for (std::int64_t at = 17; at < 50 * kFrame;) // starts inside frame 10
        {
            const std::int64_t position = 10 * kFrame + at;
            const std::int64_t untilFrame = kFrame - position % kFrame;
            const std::int64_t run = std::min({block, untilFrame, 50 * kFrame - at});
            watch.append(position, audio.data() + at, audio.data() + 50 * kFrame + at, run, lanesAt(position / kFrame));
            at += run;
        }
        for (std::int64_t frame = 8; frame < 62; ++frame)
        {
            INFO("frame " << frame);
            const bool isStale = frame == 30 || frame == 31 || frame == 40;
            const bool isKnown = frame > 10 && frame < 59;
            CHECK(watch.state(frame) == (!isKnown  ? StaleWatch::State::unknown
                                         : isStale ? StaleWatch::State::stale
                                                   : StaleWatch::State::same));
        }
        CHECK(watch.staleFrames() == 3);
    }

    StaleWatch watch(
        frozenAudioOf(take)); // one long block: the lanes of its first sample count for all frames that begin in it
    watch.append(30 * kFrame, audio.data() + 20 * kFrame, audio.data() + 70 * kFrame, 2 * kFrame, lanesAt(30));
    CHECK(watch.staleFrames() == 2);
    watch.append(30 * kFrame, material.frames[20].data(), material.frames[20].data() + kFrame, kFrame, lanesAt(30));
    CHECK(watch.state(30) == StaleWatch::State::same); // heard again, as it was
    CHECK(watch.staleFrames() == 1);
    watch.append(33 * kFrame, audio.data() + 23 * kFrame, audio.data() + 73 * kFrame, 100, lanesAt(33));
    watch.append(33 * kFrame + 101, audio.data() + 23 * kFrame + 101, audio.data() + 73 * kFrame + 101, kFrame - 101,
                 lanesAt(33));
    CHECK(watch.state(33) == StaleWatch::State::unknown); // a sample is missing
}

TEST_CASE("renders may be asked for while they are written")
{
    const TemporaryFolder folder;
    RenderRecorder recorder(folder.path);
    recorder.setEngine(someEngine());
    std::atomic<bool> isDone{false};
    std::thread reader(
        [&]
        {
            while (!isDone)
            {
                if (const auto render = recorder.lastRender())
                    CHECK(render->receipt.isComplete);
                (void)recorder.problem();
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            }
        });
    for (unsigned i = 1; i <= 10; ++i)
        play(recorder, Material(40, i), 0, static_cast<std::int32_t>(i));
    isDone = true;
    reader.join();
}
