// SPDX-License-Identifier: AGPL-3.0-or-later
// Mode Loop as a host and its user see it: capture, bounce, freeze, and going over to Stream and back.
#include <memory>
#include <string>
#include <vector>

#include "Eventually.h"
#include "FakeEngine.h"
#include "ProcessorHost.h"

using namespace processor_host;

namespace
{
constexpr std::size_t kClip = 40 * kFrame; ///< one and a half windows of the engine

const Signal kQuiet(kClip, 0.0f);

/// An instance in mode Loop that has captured `input` at zero, and an engine that answers by its negative.
struct Looping
{
    User user;
    FakeEngine engine{freeEndpoint()};
    Signal input;
    std::unique_ptr<Host> host;

    explicit Looping(bool offline, Signal signal = noise(kClip), std::int64_t holdsFrom = FakeLoop::kEverything)
        : input(std::move(signal))
    {
        engine.holdsFrom = holdsFrom;
        host = std::make_unique<Host>(offline, engine.address(), "0.4", PlayMode::loop);
        capture();
    }

    void capture()
    {
        host->plugin->clip().capture();
        host->playHead.sample = 0;
        REQUIRE((host->play(input) == input));
        host->stop();
    }

    Signal pass(const Blocks& blocks = {480})
    {
        host->playHead.sample = 0;
        Signal output = host->play(kQuiet, blocks);
        host->stop();
        return output;
    }

    /// In real time takes arrive while it plays.
    bool becomes(const Signal& expected)
    {
        return eventually([&] { return pass() == expected; });
    }
};

/// A Looping that was bounced and is frozen.
struct Frozen : Looping
{
    Frozen() : Looping(true)
    {
        REQUIRE((pass() == negative(input)));
        REQUIRE(eventually([this] { return host->plugin->renders().lastComplete() != nullptr; }));
        host->plugin->setFrozen(true);
        host->plugin->frozen().settle();
        REQUIRE(host->problemOfFrozen().empty());
    }
};

/// Lets messages pass for a moment: without any timers do not begin, and then cannot be called.
void startTimers()
{
    auto* const messages = juce::MessageManager::getInstance();
    juce::MessageManager::callAsync([messages] { messages->stopDispatchLoop(); });
    messages->runDispatchLoop();
}

void use(Host& host, PlayMode mode)
{
    Settings settings = host.plugin->settings();
    settings.mode = mode;
    host.plugin->changeSettings(settings);
}
} // namespace

TEST_CASE("in a Loop a bounce is the commit of what was captured, for every block size, and is kept with its receipt")
{
    Looping looping(true);
    PluginProcessor& plugin = *looping.host->plugin;
    CHECK(plugin.getLatencySamples() == 0);
    for (const Blocks& blocks : {Blocks{64}, Blocks{4096}, Blocks{1, 333, 64, 2048, 700}})
        CHECK((looping.pass(blocks) == negative(looping.input)));
    CHECK(looping.engine.commits == 1);
    CHECK(plugin.telemetry().lateFrames == 0);
    CHECK_FALSE(plugin.telemetry().noClip);
    REQUIRE(eventually([&] { return plugin.renders().lastComplete() != nullptr; }));
    CHECK(plugin.renders().lastComplete()->receipt.isComplete);
}

TEST_CASE("what was not captured cannot be bounced, and the user is told")
{
    const User user;
    FakeEngine engine(freeEndpoint());
    Host host(true, engine.address(), "0.4", PlayMode::loop);
    const Signal input = noise(kClip);
    CHECK((host.play(input) == input));
    CHECK(host.plugin->telemetry().noClip);
    CHECK(host.plugin->hasErrors());
    host.plugin->acknowledgeErrors();
    CHECK_FALSE(host.plugin->hasErrors());
}

TEST_CASE("what the engine lost before it sent it is replaced by the dry signal or by silence, and counted")
{
    for (const LatePolicy policy : {LatePolicy::dry, LatePolicy::silence})
    {
        Looping looping(false, noise(kClip), FakeLoop::kWindow); // the first window comes, the rest does not
        Host& host = *looping.host;
        CAPTURE(policy == LatePolicy::silence);
        Settings settings = host.plugin->settings();
        settings.latePolicy = policy;
        host.plugin->changeSettings(settings);
        const Signal other = noise(kClip, 5);
        const std::size_t sent = FakeLoop::kWindow * kFrame;
        const auto play = [&]
        {
            host.playHead.sample = 0;
            const Signal output = host.play(other);
            host.stop();
            return output;
        };
        REQUIRE(eventually([&] { return play()[sent - 1] == -looping.input[sent - 1]; }));
        looping.engine.stop();
        const std::int64_t before = host.plugin->telemetry().lateFrames;
        const Signal output = play();
        CHECK(host.plugin->telemetry().lateFrames == before + static_cast<std::int64_t>(kClip - sent) / kFrame);
        for (std::size_t i = 0; i < kClip; ++i)
            if (i < sent)
                REQUIRE(output[i] == -looping.input[i]);
            else if (i >= sent + WetSplice::kFadeSamples)
                REQUIRE(output[i] == (policy == LatePolicy::silence ? 0.0f : other[i]));
    }
}

TEST_CASE("a frozen Loop plays without an engine, in the project that is opened again too")
{
    Frozen frozen;
    const Signal bounce = negative(frozen.input);
    const juce::MemoryBlock saved = frozen.host->save();
    frozen.engine.stop();
    for (const bool offline : {true, false})
    {
        CAPTURE(offline);
        frozen.host->plugin->setNonRealtime(offline);
        frozen.host->locate(0);
        CHECK((frozen.pass({333}) == bounce));
    }
    frozen.host.reset();
    frozen.host = std::make_unique<Host>(true, kNobody); // a Stream, until it is restored
    frozen.host->restore(saved);
    CHECK(frozen.host->plugin->getLatencySamples() == 0);
    CHECK((frozen.pass() == bounce));
    CHECK(frozen.host->plugin->telemetry().lateFrames == 0);
    CHECK_FALSE(frozen.host->plugin->isFrozenStale());
}

TEST_CASE("a frozen Loop is stale where a lane or the clip is no longer what it was made from")
{
    Frozen frozen;
    PluginProcessor& plugin = *frozen.host->plugin;
    const auto isStale = [&]
    {
        frozen.host->locate(0);
        frozen.pass();
        return plugin.isFrozenStale();
    };
    const auto staleFrames = [&]
    {
        frozen.pass();                                 // a frame is judged at its end: the next pass shows it
        juce::Timer::callPendingTimersSynchronously(); // the processor's housework
        std::vector<TimelineFrame> frames(kClip / kFrame);
        plugin.timeline().read(0, lane::denoise, frames);
        std::vector<std::size_t> stale;
        for (std::size_t i = 0; i < frames.size(); ++i)
            if (frames[i].state == WindowState::stale)
                stale.push_back(i);
        return stale;
    };
    startTimers();
    CHECK_FALSE(isStale());
    const float denoise = plugin.lanes()[lane::denoise];
    plugin.lanes()[lane::denoise] = 0.25f;
    CHECK(isStale());
    CHECK(eventually([&] { return staleFrames().size() == kClip / kFrame; }));
    plugin.lanes()[lane::denoise] = denoise;
    CHECK_FALSE(isStale());
    CHECK(eventually([&] { return staleFrames().empty(); }));

    plugin.setFrozen(false);
    frozen.input[30 * kFrame] *= 0.5f;
    frozen.capture();
    REQUIRE(eventually([&] { return plugin.clip().clip().source->audio[30 * kFrame] == frozen.input[30 * kFrame]; }));
    plugin.setFrozen(true); // the bounce of the older clip
    plugin.frozen().settle();
    CHECK(isStale());
    CHECK(eventually([&] { return staleFrames() == std::vector<std::size_t>{30}; }));
}

TEST_CASE("thawed, a Loop has its clip still, and the engine makes it again")
{
    Frozen frozen;
    const int hellos = frozen.engine.hellos;
    frozen.host->plugin->setFrozen(false);
    CHECK(eventually([&] { return frozen.engine.hellos > hellos; }));
    frozen.host->locate(0);
    CHECK((frozen.pass() == negative(frozen.input)));
    CHECK(frozen.engine.commits == 2);
}

TEST_CASE("an instance that is frozen asks for no engine, one that is thawed does")
{
    Frozen frozen;
    const auto state = [&] { return frozen.host->plugin->engineStart().report().state; };
    CHECK(state() == LaunchState::off);
    CHECK(eventually([&] { return frozen.host->plugin->linkStatus().state == LinkState::idle; }));
    frozen.host->plugin->setFrozen(false);
    CHECK(eventually([&] { return state() == LaunchState::answering; }));
    frozen.host->plugin->engineStart().setNeeded(false);
    CHECK(state() == LaunchState::off);
}

TEST_CASE("to go over from a Loop to a Stream and back while the host plays does not click, and the clip is kept")
{
    Looping looping(false, Signal(kClip, 0.5f)); // sounds as -0.5
    Host& host = *looping.host;
    REQUIRE(looping.becomes(negative(looping.input)));
    const Signal part(10 * kFrame, 0.5f); // the latency of the Stream
    host.playHead.sample = 0;
    Signal output;
    const auto play = [&]
    {
        const Signal more = host.play(part, {256});
        output.insert(output.end(), more.begin(), more.end());
    };
    play();
    use(host, PlayMode::stream);
    CHECK(host.plugin->getLatencySamples() == 10 * kFrame);
    play();
    play();
    use(host, PlayMode::loop);
    CHECK(host.plugin->getLatencySamples() == 0);
    play();
    CHECK(largestStep(output) < 1.01f / OutputTail::kFadeSamples);
    host.stop();
    CHECK(looping.becomes(negative(looping.input)));
}

TEST_CASE("to acknowledge clears the problems of files that became neither clip nor reference")
{
    const User user;
    Host host(false);
    PluginProcessor& plugin = *host.plugin;
    const auto noSound = user.folder.write("speech.wav", "is silver");
    plugin.clip().load(noSound, 0, plugin.wireLanes());
    plugin.references().load(ReferenceKind::timbre, noSound);
    plugin.references().load(ReferenceKind::structure, noSound);
    const auto problems = [&]
    {
        return (plugin.clip().problem() ? 1 : 0) + (plugin.references().problem(ReferenceKind::timbre) ? 1 : 0) +
               (plugin.references().problem(ReferenceKind::structure) ? 1 : 0);
    };
    REQUIRE(eventually([&] { return problems() == 3; }));
    CHECK(plugin.hasErrors());
    plugin.acknowledgeErrors();
    CHECK(problems() == 0);
    CHECK_FALSE(plugin.problem().has_value());
}

TEST_CASE("what is drawn over a clip is heard, and what is undone or erased is the host's record again, in the project "
          "that is opened again too")
{
    Looping looping(true);
    auto host = std::move(looping.host);
    const float recorded = host->plugin->lanes()[lane::denoise];
    const auto heard = [&] // by frame of the clip
    {
        host->locate(0);
        host->play(kQuiet); // the audio thread takes what was drawn
        std::vector<float> values;
        const ClipSource clip = host->plugin->clip().clip();
        for (std::int64_t frame = 0; frame < clip.lanes->frames(); ++frame)
            values.push_back(clip.lanes->at(wireColumnOf(lane::denoise), clip.lanes->firstFrame() + frame));
        return values;
    };
    std::vector<float> expected(kClip / kFrame, recorded);
    CHECK(heard() == expected);
    const auto draw = [&](std::size_t first, std::size_t end, float value)
    {
        host->plugin->editing().drawn.draw(lane::denoise, static_cast<std::int64_t>(first),
                                           std::vector<float>(end - first, value));
    };
    const auto expect = [&](std::size_t first, std::size_t end, float value)
    {
        std::fill(expected.begin() + static_cast<std::ptrdiff_t>(first),
                  expected.begin() + static_cast<std::ptrdiff_t>(end), value);
        return eventually([&] { return heard() == expected; });
    };
    draw(5, 15, 0.25f);
    CHECK(expect(5, 15, 0.25f));
    draw(10, 20, 0.75f);
    CHECK(expect(10, 20, 0.75f));
    host->plugin->editing().history.undo();
    expected.assign(expected.size(), recorded);
    CHECK(expect(5, 15, 0.25f));

    const juce::MemoryBlock saved = host->save();
    host.reset(); // it takes its environment with it
    host = std::make_unique<Host>(true, looping.engine.address());
    host->restore(saved);
    CHECK(eventually([&] { return heard() == expected; }));
    host->plugin->editing().drawn.erase(lane::denoise, 0, 10);
    CHECK(expect(0, 10, recorded));
    host->plugin->editing().drawn.erase(lane::denoise, 10, 40);
    CHECK(expect(10, 15, recorded));
}
