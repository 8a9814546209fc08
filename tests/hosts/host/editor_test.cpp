// SPDX-License-Identifier: AGPL-3.0-or-later
// The editor opens and closes at any time. These cases need a display.
#include "checks.h"

using namespace host;

namespace
{
/// An editor in a window, as a DAW shows it.
struct Window
{
    std::unique_ptr<juce::AudioProcessorEditor> editor;
    juce::DocumentWindow frame{"host", juce::Colours::black, 0};

    explicit Window(HostedPlugin& plugin)
    {
        editor.reset(plugin.instance->createEditorIfNeeded());
        REQUIRE(editor != nullptr);
        frame.setUsingNativeTitleBar(true);
        frame.setContentNonOwned(editor.get(), true);
        frame.setTopLeftPosition(10, 10);
        frame.setVisible(true);
    }
    ~Window()
    {
        frame.clearContentComponent();
        frame.setVisible(false);
    }
};
} // namespace

TEST_CASE("the editor opens and closes while it plays", "[editor]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    REQUIRE(plugin.instance->hasEditor());
    Player player(plugin, 256);
    for (int round = 0; round < 10; ++round)
    {
        Window window(plugin);
        CHECK(window.editor->getWidth() > 0);
        CHECK(window.editor->getHeight() > 0);
        passMessages(round < 3 ? 300 : 30);
    }
    player.stop();
    CHECK(player.wasFinite());
    CHECK(player.blocks() > 200);
}

TEST_CASE("the editor takes a size within its limits, and any state while it is open", "[editor]")
{
    useEngine(kNobody, "0.2");
    HostedPlugin plugin;
    plugin.play(noise(512), {512});
    const juce::MemoryBlock state = plugin.save();
    Window window(plugin);
    passMessages(200);
    for (const auto& [width, height] : {std::pair{400, 300}, {1600, 1200}, {800, 600}, {10, 10}})
    {
        if (window.editor->isResizable())
            window.editor->setSize(width, height);
        plugin.restore(state);
        for (juce::AudioProcessorParameter* each : plugin.parameters())
            each->setValue(static_cast<float>(width % 7) / 7.0f);
        passMessages(100);
        CHECK(window.editor->getWidth() > 0);
    }
}

TEST_CASE("eight editors are open at once, and the plugins go before and after them", "[editor]")
{
    useEngine(kNobody, "0.2");
    std::vector<std::unique_ptr<HostedPlugin>> plugins;
    std::vector<std::unique_ptr<Window>> windows;
    for (int k = 0; k < 8; ++k)
    {
        plugins.push_back(std::make_unique<HostedPlugin>());
        windows.push_back(std::make_unique<Window>(*plugins.back()));
    }
    passMessages(500);
    windows[2].reset();
    plugins[2].reset();
    passMessages(100);
    for (auto& window : windows)
        window.reset();
    passMessages(100);
    for (auto& plugin : plugins)
        if (plugin != nullptr)
            CHECK(isFinite(plugin->play(noise(4096), {512})));
}

TEST_CASE("an editor stays open while the engine comes and goes", "[editor]")
{
    FakeEngine engine(freeEndpoint());
    useEngine(engine.address(), "1");
    HostedPlugin plugin;
    Window window(plugin);
    Player player(plugin, 256);
    for (int round = 0; round < 3; ++round)
    {
        passMessages(500);
        engine.stop();
        passMessages(300);
        engine.start();
    }
    player.stop();
    CHECK(player.wasFinite());
    CHECK(engine.hellos > 1);
}
