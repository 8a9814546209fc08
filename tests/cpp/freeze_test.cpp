// SPDX-License-Identifier: AGPL-3.0-or-later
// Freezing as a host and its user see it: after a bounce, while it plays, and in a project that is opened again.
#include <algorithm>
#include <memory>

#include "Eventually.h"
#include "FakeEngine.h"
#include "ProcessorHost.h"
#include "editor/RenderBinding.h"

using namespace processor_host;

namespace
{
constexpr int kLatency = 10 * kFrame;

bool savesFrozen(const Host& host)
{
    const juce::MemoryBlock saved = host.save();
    const auto xml = juce::AudioProcessor::getXmlFromBinary(saved.getData(), static_cast<int>(saved.getSize()));
    REQUIRE(xml != nullptr);
    const juce::XmlElement* frozen = xml->getChildByName("FROZEN");
    return frozen != nullptr && frozen->getStringAttribute("id").length() == 64 &&
           frozen->getStringAttribute("folder").endsWith("frozen");
}

/// A bounce of `input` that is frozen then; `output` is what it sounded like.
struct Frozen
{
    User user;
    FakeEngine engine{freeEndpoint()};
    Signal input, output;
    std::unique_ptr<Host> host = std::make_unique<Host>(true, engine.address());

    explicit Frozen(Signal signal) : input(std::move(signal))
    {
        output = host->play(input);
        host->stop();
        REQUIRE(eventually(
            [this]
            {
                const auto render = host->plugin->renders().lastRender();
                return render != nullptr && render->receipt.isComplete;
            }));
        host->plugin->setFrozen(true);
        host->plugin->frozen().settle();
        REQUIRE(host->problemOfFrozen().empty());
        REQUIRE(host->plugin->frozen().isFrozen());
    }
};

constexpr std::size_t kLength = 40 * kFrame;
} // namespace

TEST_CASE("what was bounced and frozen plays in the project that is opened again, without engine, with the same bits")
{
    Frozen frozen(noise(kLength));
    frozen.host->locate(0);
    CHECK((frozen.host->play(frozen.input, {333}) == frozen.output));
    const juce::MemoryBlock saved = frozen.host->save();
    frozen.host.reset();
    frozen.engine.stop();

    for (const int block : {64, 480, 4096})
    {
        Host host(true, freeEndpoint());
        host.restore(saved);
        CHECK(host.plugin->frozen().isFrozen());
        CHECK(host.plugin->getLatencySamples() == kLatency);
        CHECK((host.play(frozen.input, {block}) == frozen.output));
        CHECK(eventually([&] { return host.plugin->linkStatus().state == LinkState::idle; }));
        CHECK_FALSE(host.plugin->telemetry().timedOut);
        CHECK(host.plugin->telemetry().lateFrames == 0);
        CHECK_FALSE(host.plugin->isFrozenStale());

        host.plugin->setNonRealtime(false);
        host.locate(0);
        CHECK((host.play(frozen.input, {block}) == frozen.output));
    }
    Host early(true, freeEndpoint()); // its state comes first, and the rate then
    early.plugin = std::make_unique<PluginProcessor>();
    early.start(true, false);
    early.restore(saved);
    early.prepare(kRate);
    CHECK((early.play(frozen.input) == frozen.output));
    early.prepare(96000);
    early.plugin->frozen().settle();
    CHECK(early.plugin->frozen().take(96000) != nullptr);
    CHECK(early.plugin->frozen().take(kRate) == nullptr);
}

TEST_CASE("a frozen instance says good-bye to the engine, and greets it again when it is thawed")
{
    Frozen frozen(noise(kLength));
    CHECK(eventually([&] { return frozen.host->plugin->linkStatus().state == LinkState::idle; }));
    CHECK(savesFrozen(*frozen.host));
    const int hellos = frozen.engine.hellos;
    frozen.host->plugin->setFrozen(false);
    CHECK_FALSE(frozen.host->plugin->frozen().isFrozen());
    CHECK(eventually([&] { return frozen.engine.hellos > hellos; }));
    frozen.host->locate(0);
    CHECK((frozen.host->play(frozen.input) == frozen.output));
    CHECK_FALSE(savesFrozen(*frozen.host));
}

TEST_CASE("a lane, a configuration or another source make what is frozen stale")
{
    Frozen frozen(noise(kLength));
    Host& host = *frozen.host;
    const auto isStaleAfter = [&](const Signal& input)
    {
        host.locate(0);
        host.play(input);
        return host.plugin->isFrozenStale();
    };
    CHECK_FALSE(isStaleAfter(frozen.input));
    const float denoise = host.plugin->lanes()[lane::denoise];
    host.plugin->lanes()[lane::denoise] = 0.25f;
    CHECK(isStaleAfter(frozen.input));
    host.plugin->lanes()[lane::denoise] = denoise;
    CHECK_FALSE(isStaleAfter(frozen.input));
    Signal edited = frozen.input;
    edited[5 * kFrame] += 0.5f;
    CHECK(isStaleAfter(edited));
    CHECK_FALSE(isStaleAfter(frozen.input));

    Settings settings = host.plugin->settings();
    const Settings before = settings;
    settings.config.prompt = "strings";
    host.plugin->changeSettings(settings);
    CHECK(host.plugin->isFrozenStale());
    host.plugin->changeSettings(before);
    CHECK_FALSE(host.plugin->isFrozenStale());
    settings = before;
    settings.checkpointHash = std::string(64, 'f');
    host.plugin->changeSettings(settings);
    CHECK(host.plugin->isFrozenStale());
}

TEST_CASE("a frozen take that is missing is named, the dry signal passes, and the project still asks for it")
{
    Frozen frozen(noise(kLength));
    const juce::MemoryBlock saved = frozen.host->save();
    frozen.host.reset();
    const auto hidden = frozen.user.folder / "elsewhere";
    std::filesystem::rename(frozen.user.frozen(), hidden);

    Host host(true, frozen.engine.address());
    host.restore(saved);
    const Signal output = host.play(frozen.input);
    CHECK(std::equal(output.begin() + kLatency, output.end(), frozen.input.begin()));
    CHECK(host.problemOfFrozen() == "E_FROZEN_MISSING");
    CHECK(host.plugin->frozen().problem()->text.find(".frozen.json") != std::string::npos);
    CHECK(host.plugin->frozen().problem()->text.find(frozen.user.frozen().string()) != std::string::npos);
    host.plugin->frozen().acknowledge();
    CHECK(host.problemOfFrozen() == "E_FROZEN_MISSING"); // as long as it lasts
    CHECK(host.plugin->frozen().isFrozen());
    const juce::MemoryBlock again = host.save();

    std::filesystem::rename(hidden, frozen.user.frozen());
    host.restore(again);
    host.locate(0);
    CHECK((host.play(frozen.input) == frozen.output));
    CHECK(host.problemOfFrozen().empty());

    for (const auto& entry : std::filesystem::directory_iterator(frozen.user.frozen()))
        if (entry.path().extension() == ".wav")
            std::filesystem::resize_file(entry.path(), 1000);
    host.restore(again);
    host.plugin->frozen().settle();
    CHECK(host.problemOfFrozen() == "E_FROZEN_CORRUPT");
    host.plugin->setFrozen(false);
    CHECK(host.problemOfFrozen().empty());
}

TEST_CASE("takes are frozen into the project's folder, and found again where the user says that it has moved")
{
    Frozen frozen(noise(kLength)); // in the user's folder
    Host& first = *frozen.host;
    const std::filesystem::path before = frozen.user.folder / "project", after = frozen.user.folder / "moved";
    RenderBinding renders(*first.plugin);
    CHECK(renders.view().isUsersFolder);
    renders.setFolder(juce::File(before.string()));
    CHECK_FALSE(renders.view().isUsersFolder);
    CHECK(renders.view().folder == juce::File(before.string()));
    renders.setFrozen(false);
    renders.setFrozen(true);
    first.plugin->frozen().settle();
    REQUIRE(std::filesystem::exists(before));
    const juce::MemoryBlock saved = first.save();
    std::filesystem::remove_all(frozen.user.frozen());
    std::filesystem::rename(before, after);

    Host host(true, frozen.engine.address());
    host.restore(saved);
    host.plugin->frozen().settle();
    CHECK(host.problemOfFrozen() == "E_FROZEN_MISSING");
    RenderBinding reopened(*host.plugin);
    CHECK(reopened.view().folder == juce::File(before.string())); // the project remembers
    reopened.setFolder(juce::File(after.string()));
    host.plugin->frozen().settle();
    CHECK(host.problemOfFrozen().empty());
    CHECK((host.play(frozen.input) == frozen.output));

    Host again(true, frozen.engine.address());
    again.restore(host.save());
    CHECK((again.play(frozen.input) == frozen.output));
}

TEST_CASE("only a complete render can be frozen")
{
    const User user;
    Host host(true, freeEndpoint());
    RenderBinding renders(*host.plugin);
    CHECK_FALSE(renders.view().canFreeze);
    renders.setFrozen(true);
    CHECK(host.problemOfFrozen() == "E_FROZEN_INCOMPLETE");
    CHECK_FALSE(host.plugin->frozen().isFrozen());
    CHECK_FALSE(renders.view().isFrozen);
    host.plugin->frozen().acknowledge();
    CHECK(host.problemOfFrozen().empty());
    CHECK_FALSE(savesFrozen(host));
}

TEST_CASE("the editor sees what can be frozen, what is, and the file of the last render")
{
    Frozen frozen(noise(kLength));
    RenderBinding renders(*frozen.host->plugin);
    RenderView view = renders.view();
    CHECK(view.isFrozen);
    CHECK_FALSE(view.isStale);
    CHECK_FALSE(view.canFreeze);
    CHECK(view.last.existsAsFile());
    CHECK(view.text.startsWith("Frozen: 1.6 s by echo"));
    renders.setFrozen(false);
    view = renders.view();
    CHECK_FALSE(view.isFrozen);
    CHECK(view.canFreeze);
    CHECK(view.text == "1.6 s by echo");
}

TEST_CASE("to freeze while the host plays neither clicks nor leaves a gap, and keeps the latency")
{
    Frozen frozen(Signal(kLength, 0.5f)); // sounds as -0.5
    Host& host = *frozen.host;
    const auto frozenState = host.save();
    host.plugin->setFrozen(false);
    host.plugin->setNonRealtime(false);
    host.locate(0);
    const Signal part(4 * kFrame, 0.5f);
    Signal output;
    const auto play = [&]
    {
        const auto more = host.play(part, {256});
        output.insert(output.end(), more.begin(), more.end());
    };
    for (int i = 0; i < 4; ++i)
        play();
    host.restore(frozenState);
    host.plugin->frozen().settle();
    CHECK(host.plugin->getLatencySamples() == kLatency);
    play();
    play();
    const std::size_t swap = 16 * kFrame;
    for (std::size_t i = swap; i < output.size(); ++i)
    {
        REQUIRE(std::abs(output[i] - output[i - 1]) < 1.01f / OutputTail::kFadeSamples);
        if (i >= swap + OutputTail::kFadeSamples)
            REQUIRE(output[i] == -0.5f);
    }
}

TEST_CASE("a state in which nothing is frozen does not interrupt what plays")
{
    const User user;
    Host host(false, freeEndpoint());
    const Signal input = noise(kLength);
    host.play(input);
    host.restore(host.save());
    host.plugin->setFrozen(false);
    const Signal output = host.play(input);
    CHECK(std::equal(output.begin(), output.begin() + kLatency, input.end() - kLatency));
}
