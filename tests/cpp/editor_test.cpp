// SPDX-License-Identifier: AGPL-3.0-or-later
// The editor: every control named, explained, valued and within reach; nothing clipped or covered; legible colours.
#include <memory>

#include "LaneText.h"
#include "PluginEditor.h"
#include "Showcase.h"
#include "catch.h"

using namespace demon;

namespace
{
bool isControl(const juce::Component& c)
{
    if (dynamic_cast<juce::Slider*>(c.getParentComponent()) != nullptr ||
        dynamic_cast<juce::ComboBox*>(c.getParentComponent()) != nullptr ||
        dynamic_cast<juce::ScrollBar*>(c.getParentComponent()) != nullptr)
        return false; // a part of a control
    return dynamic_cast<const juce::Button*>(&c) != nullptr || dynamic_cast<const juce::Slider*>(&c) != nullptr ||
           dynamic_cast<const juce::ComboBox*>(&c) != nullptr || dynamic_cast<const juce::TextEditor*>(&c) != nullptr;
}

/// Calls `visit` for everything visible in `parent`, parents first.
template <class Visit> void walk(juce::Component& parent, Visit&& visit)
{
    for (juce::Component* child : parent.getChildren())
        if (child->isVisible())
        {
            visit(*child);
            walk(*child, visit);
        }
}

template <class Control> Control* find(juce::Component& parent, const juce::String& title)
{
    Control* found = nullptr;
    walk(parent,
         [&](juce::Component& c)
         {
             if (auto* control = dynamic_cast<Control*>(&c);
                 control != nullptr && found == nullptr && control->getTitle() == title)
                 found = control;
         });
    return found;
}

struct Shown
{
    juce::ScopedJuceInitialiser_GUI juceRuntime;
    Showcase data;
    std::unique_ptr<EditorView> view;

    explicit Shown(PlayMode mode = PlayMode::stream, int width = EditorState::kDefaultWidth,
                   int height = EditorState::kDefaultHeight, bool light = false)
    {
        if (mode == PlayMode::loop)
        {
            data.playInLoop();
            data.loop.now.state = ClipState::ready;
            data.loop.now.first = 200;
            data.loop.now.frames = 400;
        }
        data.play(17.0, 8.0, 24.0, [](double) { return FrameStatus::ready; });
        view = std::make_unique<EditorView>(data.models(), UserPreferences(juce::File()));
        view->setLight(light);
        view->setSize(width, height);
        view->refreshAll();
    }
};

struct Size
{
    int width, height;
};
constexpr Size kSizes[] = {{EditorState::kMinWidth, EditorState::kMinHeight},
                           {EditorState::kDefaultWidth, EditorState::kDefaultHeight},
                           {1720, 1080},
                           {EditorState::kMaxWidth, EditorState::kMaxHeight}};
} // namespace

TEST_CASE("every control has a name, a tooltip, a place in the focus order and, as a fader, a value in words")
{
    for (const PlayMode mode : {PlayMode::stream, PlayMode::loop})
        for (const bool light : {false, true})
        {
            Shown shown(mode, EditorState::kDefaultWidth, EditorState::kDefaultHeight, light);
            int controls = 0;
            walk(*shown.view,
                 [&](juce::Component& c)
                 {
                     if (!isControl(c))
                         return;
                     ++controls;
                     INFO(c.getTitle() << " (" << c.getName() << ") in " << c.getParentComponent()->getTitle());
                     CHECK(c.getTitle().isNotEmpty());
                     auto* tip = dynamic_cast<juce::TooltipClient*>(&c);
                     REQUIRE(tip != nullptr);
                     CHECK(tip->getTooltip().isNotEmpty());
                     CHECK((c.getWantsKeyboardFocus() || !c.isEnabled())); // false for what is disabled
                     CHECK(c.isAccessible());
                     if (auto* slider = dynamic_cast<juce::Slider*>(&c))
                         CHECK(slider->getTextFromValue(slider->getValue()).isNotEmpty());
                 });
            CHECK(controls > 2 * static_cast<int>(kLaneCount));
        }
}

TEST_CASE("a screen reader hears lanes in their own words")
{
    Shown shown;
    auto* denoise = find<juce::Slider>(*shown.view, "Denoise");
    REQUIRE(denoise != nullptr);
    CHECK(denoise->getTextFromValue(denoise->getValue()) == "90 %"); // what JUCE's handler says
    CHECK(denoise->getTooltip() == juce::String::fromUTF8(kLanes[lane::denoise].help));
}

TEST_CASE("no control is clipped, covered or too small to hit, at any size")
{
    for (const PlayMode mode : {PlayMode::stream, PlayMode::loop})
        for (const Size& size : kSizes)
        {
            Shown shown(mode, size.width, size.height);
            walk(*shown.view,
                 [&](juce::Component& c)
                 {
                     if (!isControl(c))
                         return;
                     INFO(c.getTitle() << " in " << c.getParentComponent()->getTitle() << " "
                                       << c.getBounds().toString() << " at " << size.width << "x" << size.height);
                     CHECK(c.getParentComponent()->getLocalBounds().contains(c.getBounds()));
                     CHECK(c.getWidth() >= 24);
                     CHECK(c.getHeight() >= 22);
                     for (juce::Component* other : c.getParentComponent()->getChildren())
                         if (other != &c && other->isVisible() && isControl(*other))
                         {
                             INFO("and " << other->getTitle() << " " << other->getBounds().toString());
                             CHECK_FALSE(other->getBounds().intersects(c.getBounds()));
                         }
                     if (auto* slider = dynamic_cast<juce::Slider*>(&c)) // the track beside the value
                         CHECK(shown.view->getLookAndFeel().getSliderLayout(*slider).sliderBounds.getWidth() >= 60);
                 });
        }
}

TEST_CASE("texts without a tooltip fit")
{
    for (const PlayMode mode : {PlayMode::stream, PlayMode::loop})
        for (const Size& size : kSizes)
        {
            Shown shown(mode, size.width, size.height);
            walk(*shown.view,
                 [&](juce::Component& c)
                 {
                     auto* text = dynamic_cast<Text*>(&c);
                     if (text == nullptr || text->getTooltip().isNotEmpty() || text->getText().isEmpty())
                         return;
                     INFO(text->getText() << " at " << size.width);
                     CHECK(uiFont(metrics::smallSize).getStringWidth(text->getText()) * 0.85 <= text->getWidth() + 1);
                 });
        }
}

TEST_CASE("texts have a contrast of 4.5 to what they stand on, in both themes")
{
    for (const Palette& p : {Palette::dark(), Palette::light()})
    {
        for (const juce::Colour ground : {p.window, p.panel, p.raised, p.well})
            for (const juce::Colour text : {p.text, p.dimText})
                CHECK(contrast(text, ground) >= 4.5);
        for (const juce::Colour ground : {p.panel, p.well})
            for (const juce::Colour text :
                 {p.accent, p.source, p.generated, p.curve, p.ready, p.inFlight, p.late, p.waiting, p.stale})
                CHECK(contrast(text, ground) >= 4.5);
        CHECK(contrast(p.onAccent, p.accent) >= 4.5);
        CHECK(contrast(p.late, p.panel.interpolatedWith(p.late, 0.14f)) >= 4.5);
        CHECK(contrast(p.text, p.panel.interpolatedWith(p.late, 0.14f)) >= 4.5);
    }
    CHECK(contrast(juce::Colours::black, juce::Colours::white) == Approx(21.0));
}

TEST_CASE("a typed prompt is applied by Return, is one step, and Escape takes it back")
{
    Shown shown;
    auto* prompt = find<juce::TextEditor>(*shown.view, "Prompt A");
    REQUIRE(prompt != nullptr);
    prompt->setText("flute", false);
    prompt->onReturnKey();
    CHECK(shown.data.plugin.settings().config.prompt == "flute");
    CHECK(shown.data.plugin.editing().history.undoName() == "Prompt A");
    prompt->setText("nothing", false);
    prompt->onEscapeKey();
    shown.data.plugin.editing().history.undo();
    shown.view->refreshAll();
    CHECK(prompt->getText() == "choir in a hall");
}

TEST_CASE("the arrow keys move a fader in one undo step, Backspace brings the default back")
{
    Shown shown;
    auto* fader = find<juce::Slider>(*shown.view, "Velocity");
    REQUIRE(fader != nullptr);
    const auto& velocity = shown.data.plugin.lanes()[lane::velocity_scale];
    for (int i = 0; i < 5; ++i)
        CHECK(fader->keyPressed(juce::KeyPress(juce::KeyPress::rightKey)));
    CHECK(velocity.get() == Approx(1.1f));
    CHECK(shown.data.plugin.editing().history.undoName() == "Velocity");
    CHECK(fader->keyPressed(juce::KeyPress(juce::KeyPress::endKey)));
    CHECK(velocity.get() == 2.0f);
    CHECK(fader->keyPressed(juce::KeyPress(juce::KeyPress::backspaceKey)));
    CHECK(velocity.get() == 1.0f);
}

TEST_CASE("the search shows what matches, and a lane that does nothing says why")
{
    Shown shown;
    auto* search = find<juce::TextEditor>(*shown.view, "Search lanes");
    REQUIRE(search != nullptr);
    search->setText("wavelet slow");
    search->onTextChange();
    CHECK(find<juce::Slider>(*shown.view, "DCW Low") != nullptr);
    CHECK(find<juce::Slider>(*shown.view, "DCW High") == nullptr);
    search->setText("feedback");
    search->onTextChange();
    auto* feedback = find<juce::Slider>(*shown.view, "Feedback");
    REQUIRE(feedback != nullptr);
    CHECK_FALSE(feedback->isEnabled());
    CHECK(find<Text>(*shown.view, "only in Loop") != nullptr);
}

namespace
{
juce::MouseEvent at(juce::Component& c, float x, float y)
{
    const juce::Point<float> position(x * static_cast<float>(c.getWidth()), y * static_cast<float>(c.getHeight()));
    return {juce::Desktop::getInstance().getMainMouseSource(),
            position,
            juce::ModifierKeys::leftButtonModifier,
            1.0f,
            0.0f,
            0.0f,
            0.0f,
            0.0f,
            &c,
            &c,
            {},
            position,
            {},
            1,
            false};
}
} // namespace

TEST_CASE("in a loop lanes are drawn smoothly, in lines and in steps, and erased, each in one undo step")
{
    Shown shown(PlayMode::loop);
    shown.data.plugin.editing().editor.change([](EditorState& state) { state.timelineSeconds = 60.0; });
    shown.view->refreshAll();
    auto* canvas = find<TimelineCanvas>(*shown.view, "Timeline");
    REQUIRE(canvas != nullptr);
    auto& drawn = shown.data.plugin.editing().drawn;
    auto& history = shown.data.plugin.editing().history;
    const auto stroke = [&](DrawTool tool)
    {
        canvas->setTool(tool);
        canvas->mouseDown(at(*canvas, 0.25f, 0.95f));
        canvas->mouseDrag(at(*canvas, 0.5f, 0.75f));
        canvas->mouseDrag(at(*canvas, 0.75f, 0.8f));
        canvas->mouseUp(at(*canvas, 0.75f, 0.8f));
    };
    for (const DrawTool tool : {DrawTool::smooth, DrawTool::line, DrawTool::step})
    {
        stroke(tool);
        const std::vector<float> curve = drawn.curve(lane::denoise);
        REQUIRE(curve.size() > 295);
        CHECK(std::isnan(curve[80]));
        CHECK(curve[110] < curve[280]);
        CHECK(history.undoName() == "Draw Denoise");
        if (tool == DrawTool::line)
            for (std::size_t i = 110; i < 290; ++i)
                CHECK(curve[i + 1] >= curve[i]);
        if (tool == DrawTool::step)
            CHECK(curve[281] == curve[289]);
        history.undo();
        CHECK_FALSE(drawn.hasCurve(lane::denoise));
    }
    stroke(DrawTool::line);
    canvas->setTool(DrawTool::erase);
    canvas->mouseDown(at(*canvas, 0.4f, 0.9f));
    canvas->mouseDrag(at(*canvas, 0.6f, 0.9f));
    canvas->mouseUp(at(*canvas, 0.6f, 0.9f));
    CHECK(std::isnan(drawn.curve(lane::denoise)[200]));
    CHECK_FALSE(std::isnan(drawn.curve(lane::denoise)[120]));
    history.undo();
    CHECK_FALSE(std::isnan(drawn.curve(lane::denoise)[200]));
}

TEST_CASE("in a loop lanes are drawn by keys as well, each change one undo step")
{
    using Key = juce::KeyPress;
    Shown shown(PlayMode::loop);
    shown.view->refreshAll();
    auto* canvas = find<TimelineCanvas>(*shown.view, "Timeline");
    REQUIRE(canvas != nullptr);
    CHECK(canvas->getWantsKeyboardFocus());
    auto& editing = shown.data.plugin.editing();
    const auto curve = [&] { return editing.drawn.curve(lane::denoise); };
    const auto press = [&](int key, int modifiers = 0)
    { return canvas->keyPressed(Key(key, juce::ModifierKeys(modifiers), 0)); };

    CHECK(press(Key::rightKey)); // the second stair
    canvas->typeValue("50 %");
    CHECK(press(Key::upKey));
    REQUIRE(curve().size() == 20);
    CHECK(std::isnan(curve()[9]));
    CHECK(curve()[10] == Approx(0.51f));
    CHECK(curve()[19] == Approx(0.51f));
    CHECK(editing.history.undoName() == "Draw Denoise");

    press(Key::rightKey, juce::ModifierKeys::shiftModifier); // and the third with it, which follows the host so far
    std::vector<TimelineFrame> host(1);
    shown.data.history.read(200 + 25, lane::denoise, host);
    REQUIRE(host[0].lane.has_value());
    press(Key::pageUpKey);
    REQUIRE(curve().size() == 30);
    CHECK(curve()[19] == Approx(0.61f));
    CHECK(curve()[25] == Approx(std::min(1.0f, *host[0].lane + 0.1f)).margin(2e-5));

    canvas->typeValue("20 %");
    CHECK(curve()[10] == Approx(0.2f));
    CHECK(curve()[29] == Approx(0.2f));
    press(Key::escapeKey); // the third stair alone
    canvas->typeValue("0.8");
    CHECK(curve()[19] == Approx(0.2f));
    press(Key::leftKey, juce::ModifierKeys::shiftModifier);
    press('L');
    for (std::size_t i = 10; i < 29; ++i)
        CHECK(curve()[i + 1] - curve()[i] == Approx(0.6 / 19.0).margin(2e-5));
    CHECK(canvas->describeCaret() == "Denoise 20 % at 0.40 s, 0.40 to 1.20 s selected");

    press(Key::deleteKey);
    CHECK(curve().empty());
    editing.history.undo();
    CHECK(curve().size() == 30);
    press(Key::endKey, juce::ModifierKeys::altModifier); // the last frame alone
    canvas->typeValue("1");
    REQUIRE(curve().size() == 400);
    CHECK(std::isnan(curve()[398]));
    canvas->typeValue("no number");
    CHECK(curve()[399] == 1.0f);
    CHECK_FALSE(press('q'));
    CHECK_FALSE(press('z', juce::ModifierKeys::commandModifier));

    shown.data.loop.now.state = ClipState::capturing; // nothing to draw on
    shown.view->refreshAll();
    CHECK_FALSE(canvas->getWantsKeyboardFocus());
    CHECK_FALSE(press(Key::upKey));
}

TEST_CASE("what the panels set reaches their models")
{
    Shown shown;
    shown.data.engine.now.canStart = true;
    shown.view->refreshAll();
    const auto press = [&](const char* title)
    {
        auto* button = find<juce::Button>(*shown.view, title);
        REQUIRE(button != nullptr);
        if (button->getClickingTogglesState())
            button->setToggleState(!button->getToggleState(), juce::dontSendNotification);
        button->onClick();
    };
    press("If late: Silence");
    CHECK(shown.data.engine.now.late == LatePolicy::silence);
    press("Start engine");
    CHECK(shown.data.engine.now.state == EngineState::starting);
    press("Mode: Loop");
    CHECK(shown.data.mode.now == PlayMode::loop);
    press("Compare: B");
    CHECK(shown.data.plugin.editing().compare.active() == 1);
    press("Lock the seed");
    CHECK(shown.data.plugin.editing().editor.get().seedLocked);
    press("Next preset");
    CHECK(shown.data.plugin.editing().editor.get().preset != "factory/Nave of Voices");
    CHECK(shown.data.plugin.settings().config.seed == 2718281828LL);
}

TEST_CASE("the window's size is remembered in the project; the theme by the user")
{
    const juce::ScopedJuceInitialiser_GUI juceRuntime;
    PluginProcessor plugin;
    {
        const std::unique_ptr<juce::AudioProcessorEditor> editor(plugin.createEditor());
        CHECK(editor->getWidth() == EditorState::kDefaultWidth);
        editor->setSize(1300, 900);
    }
    const std::unique_ptr<juce::AudioProcessorEditor> again(plugin.createEditor());
    CHECK(again->getWidth() == 1300);
    CHECK(again->getHeight() == 900);

    const juce::File file = juce::File::createTempFile("json");
    CHECK_FALSE(UserPreferences(file).isLight());
    UserPreferences(file).setLight(true);
    CHECK(UserPreferences(file).isLight());
    file.deleteFile();
}
