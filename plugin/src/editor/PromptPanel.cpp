// SPDX-License-Identifier: AGPL-3.0-or-later
#include "PromptPanel.h"

namespace demon
{
namespace
{
juce::String utf8(const std::string& text) { return juce::String::fromUTF8(text.c_str()); }
} // namespace

PromptPanel::PromptPanel(Editing& edits, EngineModel&)
    : Panel("Prompt"), editing(edits), promptA("Prompt A", "What to play. Return applies it.", "What to play"),
      promptB("Prompt B", "The other end of Blend. Return applies it.", "The other end of Blend"),
      seed("Seed", "The same seed gives the same take again; 0 to 4294967295"),
      steps("Steps", "Denoising steps; 0 is the checkpoint's own number"), blend(edits, lane::prompt_blend, 56),
      solver("Solver", {{"ODE", "The plain solver: the same path every time"},
                        {"SDE", "Stirs in fresh noise at every step: livelier, needs more steps"}})
{
    for (juce::Component* child :
         std::initializer_list<juce::Component*>{&labelA, &promptA, &labelB, &promptB, &blendLabel, &blend, &seedLabel,
                                                 &seed, &dice, &lock, &takes, &stepsLabel, &steps, &solver})
        addAndMakeVisible(child);
    labelA.setColour([](const Palette& p) { return p.accent; });
    labelB.setColour([](const Palette& p) { return p.accent; });
    seed.setInputRestrictions(10, "0123456789");
    steps.setInputRestrictions(2, "0123456789");
    promptA.onApply = [this](const juce::String& text)
    { change([&](Settings& s) { s.config.prompt = text.toStdString(); }); };
    promptB.onApply = [this](const juce::String& text)
    { change([&](Settings& s) { s.extras.promptB = text.toStdString(); }); };
    seed.onApply = [this](const juce::String& text)
    {
        editing.changeSeed(juce::jlimit<juce::int64>(0, 4294967295LL, text.getLargeIntValue()));
        seed.show(juce::String(editing.settings().config.seed));
        seed.setText(juce::String(editing.settings().config.seed), false);
    };
    steps.onApply = [this](const juce::String& text)
    {
        change([&](Settings& s) { s.config.steps = text.getIntValue(); });
        steps.setText(juce::String(editing.settings().config.steps), false);
    };
    solver.onChoice = [this](int index) { change([&](Settings& s) { s.config.solver = index == 1 ? "sde" : "ode"; }); };
    dice.onClick = [this] { editing.rollSeed(); };
    lock.setTooltip("Lock the seed: presets and the dice leave it alone");
    lock.setClickingTogglesState(true);
    lock.onClick = [this]
    { editing.editor.change([this](EditorState& state) { state.seedLocked = lock.getToggleState(); }); };
    takes.onClick = [this] { showTakes(); };
}

void PromptPanel::change(const std::function<void(Settings&)>& edit)
{
    Settings wanted = editing.settings();
    edit(wanted);
    editing.changeSettings(wanted);
}

void PromptPanel::showTakes()
{
    juce::PopupMenu menu;
    menu.setLookAndFeel(&getLookAndFeel());
    menu.addSectionHeader("Takes, newest first");
    const auto state = editing.editor.get();
    for (const Take& take : state.takes)
        menu.addItem(juce::String(take.seed) + (take.prompt.empty() ? juce::String() : "   " + utf8(take.prompt)),
                     !state.seedLocked, take.seed == editing.settings().config.seed,
                     [this, take] { editing.changeSeed(take.seed); });
    if (state.takes.empty())
        menu.addItem("Seeds that you try are kept here", false, false, [] {});
    menu.showMenuAsync(juce::PopupMenu::Options().withTargetComponent(takes).withDeletionCheck(*this));
}

void PromptPanel::refresh(const EngineView& engine)
{
    const Settings now = editing.settings();
    const bool isLocked = editing.editor.get().seedLocked;
    promptA.show(utf8(now.config.prompt));
    promptB.show(utf8(now.extras.promptB));
    seed.show(juce::String(now.config.seed));
    steps.show(juce::String(now.config.steps));
    stepsLabel.setText(now.config.steps == 0 && engine.steps > 0 ? "Steps (" + juce::String(engine.steps) + ")"
                                                                 : juce::String("Steps"));
    solver.setSelected(now.config.solver == "sde" ? 1 : 0);
    lock.setToggleState(isLocked, juce::dontSendNotification);
    dice.setEnabled(!isLocked);
    seed.setReadOnly(isLocked);
}

void PromptPanel::resized()
{
    auto area = placeHeading();
    const auto line = [&](int height)
    {
        const auto row = area.removeFromTop(height);
        area.removeFromTop(6);
        return row;
    };
    auto row = line(metrics::row);
    labelA.setBounds(row.removeFromLeft(22));
    promptA.setBounds(row);
    row = line(metrics::row);
    labelB.setBounds(row.removeFromLeft(22));
    promptB.setBounds(row);
    row = line(metrics::row);
    blendLabel.setBounds(row.removeFromLeft(46));
    blend.setBounds(row);
    row = line(metrics::row);
    seedLabel.setBounds(row.removeFromLeft(46));
    for (IconButton* button : {&takes, &lock, &dice})
    {
        button->setBounds(row.removeFromRight(metrics::row));
        row.removeFromRight(2);
    }
    seed.setBounds(row.withTrimmedRight(2));
    row = line(metrics::row);
    solver.setBounds(row.removeFromRight(116));
    row.removeFromRight(metrics::gap);
    stepsLabel.setBounds(row.removeFromLeft(66));
    steps.setBounds(row.removeFromLeft(52));
}
} // namespace demon
