// SPDX-License-Identifier: AGPL-3.0-or-later
// The processor as a host sees it, without a host and without an engine.
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "FakeEngine.h"
#include "ProcessorHost.h"
#include "WaitCount.h"

using namespace processor_host;

namespace
{
const std::vector<Blocks> kBlockPatterns{{64}, {480}, {512}, {1920}, {4096}, {1, 333, 64, 2048, 700}};
} // namespace

TEST_CASE("the parameters are the lanes in order, and Bypass")
{
    Host host(true);
    const auto& parameters = host.plugin->getParameters();
    REQUIRE(parameters.size() == static_cast<int>(kLaneCount) + 1);
    for (std::size_t i = 0; i < kLaneCount; ++i)
    {
        const auto* parameter = dynamic_cast<juce::AudioParameterFloat*>(parameters[static_cast<int>(i)]);
        REQUIRE(parameter != nullptr);
        CHECK(parameter->paramID == kLanes[i].id);
        CHECK(parameter->get() == kLanes[i].defaultValue);
    }
    CHECK(host.plugin->getBypassParameter() == parameters.getLast());
}

TEST_CASE("the reported latency is whole frames at every rate")
{
    Host host(true, kNobody, "6");
    for (const double rate : {44100.0, 48000.0, 96000.0, 192000.0})
    {
        host.prepare(rate);
        CHECK(host.plugin->getLatencySamples() == static_cast<int>(6 * rate));
    }
}

TEST_CASE("live without an engine nothing waits and the dry signal passes bit for bit")
{
    const Signal input = noise(100000);
    for (const auto& blocks : kBlockPatterns)
    {
        Host host(false);
        const WaitCount waits;
        const Signal output = host.play(input, blocks);
        CHECK(waits.count() <= WaitCount::kUnasked);
        CHECK(isDelayed(output, input, host.plugin->getLatencySamples()));
        CHECK(host.plugin->telemetry().lateFrames > 0);
        CHECK_FALSE(host.plugin->telemetry().timedOut);
    }
}

TEST_CASE("offline without an engine the wait ends once, the run is dry, and the error stays until acknowledged")
{
    const Signal input = noise(100000);
    Host host(true);
    const std::int64_t startedAt = steadyNanoseconds();
    const WaitCount waits;
    const Signal output = host.play(input, {512});
    CHECK(static_cast<double>(steadyNanoseconds() - startedAt) * 1e-9 > 0.29);
    CHECK(waits.count() <= WaitCount::ofOneWait(300) + WaitCount::kUnasked);
    CHECK(isDelayed(output, input, host.plugin->getLatencySamples()));
    CHECK(host.plugin->telemetry().timedOut);
    host.plugin->acknowledgeErrors();
    CHECK_FALSE(host.plugin->telemetry().timedOut);
}

TEST_CASE("offline with an engine every block size gives the same bits, at mix 1 wet and at mix 0 dry")
{
    const std::string endpoint = freeEndpoint();
    FakeEngine engine(endpoint);
    const Signal input = noise(100000);
    for (const float mix : {1.0f, 0.0f})
        for (const auto& blocks : kBlockPatterns)
        {
            Host host(true, endpoint);
            host.plugin->lanes()[lane::mix] = mix;
            const Signal output = host.play(input, blocks);
            CHECK(isDelayed(output, input, host.plugin->getLatencySamples(), mix == 1.0f ? -1.0f : 1.0f));
            CHECK(host.plugin->telemetry().lateFrames == 0);
        }
}

TEST_CASE("state restores settings and lanes by id")
{
    Host host(true);
    Settings settings = host.plugin->settings();
    settings.config.prompt = "gr\xc3\xbc\xc3\x9f \"<&>\"\nline two";
    settings.config.seed = 4294967295LL;
    settings.config.steps = 12;
    settings.config.solver = "sde";
    settings.latePolicy = LatePolicy::silence;
    settings.latencySeconds = 8.0;
    host.plugin->changeSettings(settings);
    host.plugin->lanes()[lane::guidance] = 7.25f;
    host.plugin->lanes().bypass() = true;
    juce::MemoryBlock saved;
    host.plugin->getStateInformation(saved);

    Host other(true);
    other.plugin->setStateInformation(saved.getData(), static_cast<int>(saved.getSize()));
    CHECK(other.plugin->settings() == host.plugin->settings());
    CHECK(other.plugin->settings().config.prompt == settings.config.prompt);
    CHECK(other.plugin->lanes()[lane::guidance].get() == Approx(7.25f));
    CHECK(other.plugin->lanes().bypass().get());
    CHECK(other.plugin->getLatencySamples() == 8 * 48000);
}

TEST_CASE("state tolerates what is unknown, missing, out of range or garbage")
{
    Host host(true);
    const auto restore = [&](const juce::String& text)
    {
        juce::MemoryBlock block;
        if (const auto xml = juce::parseXML(text))
            juce::AudioProcessor::copyXmlToBinary(*xml, block);
        host.plugin->setStateInformation(block.getData(), static_cast<int>(block.getSize()));
    };
    restore("<DEMON version=\"9\" seed=\"-5\" steps=\"999\" solver=\"magic\" latency=\"nan\" colour=\"red\">"
            "<LANE id=\"denoise\" value=\"7\"/><LANE id=\"gone\" value=\"1\"/><LANE value=\"1\"/><OTHER/></DEMON>");
    CHECK(host.plugin->settings().config.seed == 0);
    CHECK(host.plugin->settings().config.steps == 50);
    CHECK(host.plugin->settings().config.solver == "ode");
    CHECK(host.plugin->lanes()[lane::denoise].get() == 1.0f);
    CHECK(host.plugin->lanes()[lane::mix].get() == 1.0f);
    const Settings before = host.plugin->settings();
    restore("<OTHER prompt=\"no\"/>");
    CHECK(host.plugin->settings() == before);
}

TEST_CASE("a state that was cut short or damaged leaves valid settings")
{
    Host host(true);
    Settings settings = host.plugin->settings();
    settings.config.prompt = "gr\xc3\xbc\xc3\x9f und strings";
    settings.config.seed = 12345;
    settings.config.steps = 12;
    settings.config.solver = "sde";
    host.plugin->changeSettings(settings);
    juce::MemoryBlock saved;
    host.plugin->getStateInformation(saved);
    const auto restore = [&](const std::vector<char>& bytes)
    { host.plugin->setStateInformation(bytes.data(), static_cast<int>(bytes.size())); };
    const std::vector<char> whole(saved.begin(), saved.end());
    std::mt19937 random(5);

    host.plugin->changeSettings({});
    constexpr std::size_t closingZero = 1; // may be missing
    for (std::size_t size = 0; size < whole.size() - closingZero; size += 1 + random() % 40)
        restore({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
    CHECK(host.plugin->settings() == Settings());
    for (int round = 0; round < 400; ++round)
    {
        std::vector<char> damaged = whole;
        for (unsigned flips = 1 + random() % 4; flips > 0; --flips)
            damaged[random() % damaged.size()] ^= static_cast<char>(1u << (random() % 8));
        restore(damaged);
        REQUIRE(host.plugin->settings() == host.plugin->settings().sanitised());
        for (std::size_t i = 0; i < kLaneCount; ++i)
        {
            const float value = host.plugin->lanes()[i].get();
            REQUIRE((value >= kLanes[i].min && value <= kLanes[i].max));
        }
    }
    restore(whole);
    CHECK(host.plugin->settings() == settings);
}

TEST_CASE("the environment wins while it is set, and never gets into the saved state")
{
    const std::string endpoint = freeEndpoint();
    Host host(true, endpoint);
    CHECK(host.plugin->engineEndpoint() == endpoint);
    CHECK(host.plugin->settings().endpoint == Settings().endpoint);
    Settings settings = host.plugin->settings();
    settings.endpoint = "tcp://127.0.0.1:1234";
    settings.timeoutSeconds = 7.0;
    host.plugin->changeSettings(settings);
    CHECK(host.plugin->engineEndpoint() == endpoint);
    juce::MemoryBlock saved;
    host.plugin->getStateInformation(saved);
    const auto xml = juce::AudioProcessor::getXmlFromBinary(saved.getData(), static_cast<int>(saved.getSize()));
    REQUIRE(xml != nullptr);
    CHECK(xml->getStringAttribute("endpoint") == "tcp://127.0.0.1:1234");
    CHECK(xml->getDoubleAttribute("timeout") == 7.0);
}

namespace
{
struct ChangeCounter : juce::AudioProcessorListener
{
    int stateChanges = 0;
    void audioProcessorParameterChanged(juce::AudioProcessor*, int, float) override {}
    void audioProcessorChanged(juce::AudioProcessor*, const ChangeDetails& details) override
    {
        stateChanges += details.nonParameterStateChanged ? 1 : 0;
    }
};
} // namespace

TEST_CASE("what the user changes makes the project dirty, a restored state does not")
{
    Host host(true);
    ChangeCounter counter;
    host.plugin->addListener(&counter);
    Settings settings = host.plugin->settings();
    host.plugin->changeSettings(settings);
    CHECK(counter.stateChanges == 0);
    settings.config.prompt = "strings";
    host.plugin->changeSettings(settings);
    CHECK(counter.stateChanges == 1);
    juce::MemoryBlock saved;
    host.plugin->getStateInformation(saved);
    settings.latencySeconds = 1.0;
    host.plugin->changeSettings(settings);
    CHECK(counter.stateChanges == 2);
    host.plugin->setStateInformation(saved.getData(), static_cast<int>(saved.getSize()));
    CHECK(counter.stateChanges == 2);
    host.plugin->removeListener(&counter);
}

namespace
{
template <class Field> std::vector<Field*> childrenOf(juce::Component& parent)
{
    std::vector<Field*> found;
    for (juce::Component* child : parent.getChildren())
    {
        if (auto* field = dynamic_cast<Field*>(child))
            found.push_back(field);
        const auto deeper = childrenOf<Field>(*child);
        found.insert(found.end(), deeper.begin(), deeper.end());
    }
    return found;
}

template <class Field> Field& fieldNamed(juce::Component& parent, const juce::String& title)
{
    for (Field* field : childrenOf<Field>(parent))
        if (field->getTitle() == title)
            return *field;
    FAIL("no field " << title);
    throw std::logic_error("unreachable");
}
} // namespace

TEST_CASE("every lane has a fader of its name, and the wheel scrolls the list")
{
    Host host(true);
    const std::unique_ptr<juce::AudioProcessorEditor> editor(host.plugin->createEditor());
    for (const LaneInfo& info : kLanes)
        CHECK_FALSE(fieldNamed<juce::Slider>(*editor, juce::String::fromUTF8(info.name)).isScrollWheelEnabled());
}

TEST_CASE("the editor shows what became of its fields, and a latency that is no choice survives an edit")
{
    Host host(true); // a latency of 0.4 s
    const std::unique_ptr<juce::AudioProcessorEditor> editor(host.plugin->createEditor());
    auto& seed = fieldNamed<juce::TextEditor>(*editor, "Seed");
    auto& latency = fieldNamed<juce::ComboBox>(*editor, "Latency");
    CHECK(latency.getSelectedId() == 0);
    CHECK(latency.getText() == "400 ms");
    for (int i = 0; i < 2; ++i) // the second time nothing changes
    {
        seed.setText("9999999999", false);
        seed.onReturnKey();
        CHECK(seed.getText() == "4294967295");
    }
    CHECK(host.plugin->settings().latencySeconds == 0.4);
    latency.setSelectedId(3, juce::sendNotificationSync);
    CHECK(host.plugin->settings().latencySeconds == 8.0);
    CHECK(latency.getText() == "Relaxed, 8000 ms");
}

TEST_CASE("reset may come from any thread, at any time")
{
    Host host(false);
    PluginProcessor fresh;
    fresh.reset(); // before it is prepared
    const Signal input = noise(60000);
    host.play(noise(10000), {512});
    host.plugin->reset();
    CHECK(isDelayed(host.play(input, {512}), input, host.plugin->getLatencySamples()));
}

TEST_CASE("a new latency while playing is taken over at the next block")
{
    Host host(false);
    host.play(noise(10000), {512});
    Settings settings = host.plugin->settings();
    for (const double seconds : {0.2, 0.6, 0.8})
    {
        settings.latencySeconds = seconds;
        host.plugin->changeSettings(settings);
        CHECK(host.plugin->getLatencySamples() == static_cast<int>(seconds * 48000));
    }
    const Signal input = noise(60000);
    Signal output = host.play(input, {512});
    const int latency = host.plugin->getLatencySamples();
    for (int i = latency; i < latency + OutputTail::kFadeSamples; ++i) // fades in
    {
        CHECK(std::abs(output[static_cast<std::size_t>(i)]) <= std::abs(input[static_cast<std::size_t>(i - latency)]));
        output[static_cast<std::size_t>(i)] = input[static_cast<std::size_t>(i - latency)];
    }
    CHECK(isDelayed(output, input, latency));
}

TEST_CASE("mono and stereo are accepted, but nothing is folded down")
{
    Host host(true);
    using Set = juce::AudioChannelSet;
    const auto accepts = [&](const Set& in, const Set& out)
    {
        juce::AudioProcessor::BusesLayout layout;
        layout.inputBuses.add(in);
        layout.outputBuses.add(out);
        return host.plugin->isBusesLayoutSupported(layout);
    };
    CHECK(accepts(Set::stereo(), Set::stereo()));
    CHECK(accepts(Set::mono(), Set::mono()));
    CHECK(accepts(Set::mono(), Set::stereo()));
    CHECK_FALSE(accepts(Set::stereo(), Set::mono()));
    CHECK_FALSE(accepts(Set::disabled(), Set::stereo()));
    CHECK_FALSE(accepts(Set::stereo(), Set::create5point1()));
}

TEST_CASE("a mono host gets its own signal back bit for bit, in blocks of any size, and stereo out has it twice")
{
    for (const bool stereoOut : {false, true})
    {
        Host host(false);
        juce::AudioProcessor::BusesLayout layout;
        layout.inputBuses.add(juce::AudioChannelSet::mono());
        layout.outputBuses.add(stereoOut ? juce::AudioChannelSet::stereo() : juce::AudioChannelSet::mono());
        REQUIRE(host.plugin->setBusesLayout(layout));
        host.prepare(48000.0);
        const Signal input = noise(60000);
        juce::MidiBuffer midi;
        Signal left, right;
        for (std::size_t at = 0, block = 0; at < input.size(); ++block)
        {
            const int sizes[] = {64, 20000, 1, 777};
            const int size = std::min(sizes[block % 4], static_cast<int>(input.size() - at));
            juce::AudioBuffer<float> buffer(stereoOut ? 2 : 1, size);
            buffer.copyFrom(0, 0, input.data() + at, size);
            host.plugin->processBlock(buffer, midi);
            left.insert(left.end(), buffer.getReadPointer(0), buffer.getReadPointer(0) + size);
            if (stereoOut)
                right.insert(right.end(), buffer.getReadPointer(1), buffer.getReadPointer(1) + size);
            at += static_cast<std::size_t>(size);
            host.playHead.sample += size;
        }
        CHECK(isDelayed(left, input, host.plugin->getLatencySamples()));
        if (stereoOut)
            CHECK(right == left);
    }
}
