// SPDX-License-Identifier: AGPL-3.0-or-later
#include "TimelineView.h"

#include "../LaneText.h"

namespace demon
{
namespace
{
struct LegendEntry
{
    const char* word;
    juce::Colour Palette::*colour;
    bool isHollow, isHatched;
};
constexpr LegendEntry kLegend[] = {{"ready", &Palette::ready, false, false},
                                   {"in flight", &Palette::inFlight, true, true},
                                   {"late", &Palette::late, false, true},
                                   {"waiting", &Palette::waiting, true, false},
                                   {"stale", &Palette::stale, false, true}};
constexpr int kSwatch = 14;

int widthOf(const LegendEntry& entry)
{
    return kSwatch + 5 + uiFont(metrics::smallSize).getStringWidth(entry.word) + 14;
}

int legendWidth()
{
    int width = 0;
    for (const LegendEntry& entry : kLegend)
        width += widthOf(entry);
    return width;
}
} // namespace

Legend::Legend()
{
    setTitle("Windows: ready, in flight, late, waiting, stale");
    setInterceptsMouseClicks(false, false);
}

void Legend::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    graphics.setFont(uiFont(metrics::smallSize));
    int x = getWidth() - legendWidth();
    for (const LegendEntry& entry : kLegend)
    {
        const auto swatch = juce::Rectangle<int>(x, getHeight() / 2 - 4, kSwatch, 8).toFloat();
        const juce::Colour colour = p.*(entry.colour);
        graphics.setColour(colour);
        if (entry.isHollow)
            graphics.drawRect(swatch.reduced(0.5f), 1.25f);
        else
            graphics.fillRect(swatch);
        if (entry.isHatched)
        {
            juce::Graphics::ScopedSaveState saved(graphics);
            graphics.reduceClipRegion(swatch.toNearestInt());
            graphics.setColour(entry.isHollow ? colour : p.panel);
            for (float at = swatch.getX() - 6.0f; at < swatch.getRight() + 6.0f; at += 6.0f)
                graphics.drawLine(at, swatch.getBottom(), at + 6.0f, swatch.getY(), 1.25f);
        }
        graphics.setColour(p.dimText);
        graphics.drawText(entry.word, x + kSwatch + 5, 0, widthOf(entry), getHeight(),
                          juce::Justification::centredLeft);
        x += widthOf(entry);
    }
}

TimelineView::TimelineView(Editing& edits, TimelineModel& timeline, LoopModel* loopModel)
    : editing(edits), loop(loopModel), canvas(edits, timeline, loopModel),
      laneMenu("Lane on the timeline", "Which lane is shown, and drawn, under the waveforms"),
      rounds("Feedback rounds", "How often a bounce feeds the result back, from the source on")
{
    setTitle("Timeline and clip");
    setFocusContainerType(FocusContainerType::focusContainer);
    for (juce::Component* child : std::initializer_list<juce::Component*>{
             &laneMenu, &tools[0], &tools[1], &tools[2], &tools[3], &capture, &open, &clear, &cycle, &rounds, &clipText,
             &legend, &zoomOut, &zoomIn, &canvas})
        addAndMakeVisible(child);
    for (std::size_t i = 0; i < kLaneCount; ++i)
        laneMenu.addItem(juce::String::fromUTF8(kLanes[i].name), static_cast<int>(i) + 1);
    laneMenu.onChange = [this]
    {
        const int id = laneMenu.getSelectedId();
        editing.editor.change([&](EditorState& state)
                              { state.shownLane = static_cast<std::size_t>(juce::jmax(1, id) - 1); });
    };
    for (std::size_t i = 0; i < tools.size(); ++i)
        tools[i].onClick = [this, i]
        {
            const auto wanted = static_cast<DrawTool>(i + 1);
            choose(tool == wanted ? DrawTool::none : wanted);
        };
    named(cycle, "Cycle the clip", "Outside of the clip: repeat it, in place of passing the source");
    for (int i = 1; i <= 8; ++i)
        rounds.addItem(juce::String(i) + (i == 1 ? " round" : " rounds"), i);
    capture.onClick = [this]
    {
        if (loop->view().state == ClipState::capturing)
            loop->stop();
        else
            loop->capture();
    };
    open.onClick = [this] { browse(); };
    clear.onClick = [this] { loop->clear(); };
    cycle.onClick = [this] { loop->setCycles(cycle.getToggleState()); };
    rounds.onChange = [this] { loop->setFeedbackRounds(rounds.getSelectedId()); };
    zoomIn.onClick = [this] { canvas.zoom(0.5); };
    zoomOut.onClick = [this] { canvas.zoom(2.0); };
    refreshTools(PlayMode::stream);
}

void TimelineView::choose(DrawTool wanted)
{
    tool = wanted;
    canvas.setTool(wanted);
    for (std::size_t i = 0; i < tools.size(); ++i)
        tools[i].setToggleState(static_cast<DrawTool>(i + 1) == tool, juce::dontSendNotification);
}

void TimelineView::loadClip(const juce::File& file)
{
    if (const juce::String problem = loop->load(file); problem.isNotEmpty())
        tell(*this, "Clip", problem);
}

void TimelineView::browse()
{
    chooser = std::make_unique<juce::FileChooser>("Open a clip", juce::File(), "*.wav;*.flac;*.ogg;*.aif;*.aiff");
    chooser->launchAsync(juce::FileBrowserComponent::openMode | juce::FileBrowserComponent::canSelectFiles,
                         [this](const juce::FileChooser& done)
                         {
                             if (done.getResult() != juce::File())
                                 loadClip(done.getResult());
                         });
}

bool TimelineView::isInterestedInFileDrag(const juce::StringArray& files)
{
    return loop != nullptr && mode == PlayMode::loop && files.size() == 1;
}

void TimelineView::filesDropped(const juce::StringArray& files, int, int) { loadClip(juce::File(files[0])); }

void TimelineView::refresh() { canvas.refresh(); }

void TimelineView::refreshTools(PlayMode newMode)
{
    const bool isLoop = newMode == PlayMode::loop && loop != nullptr;
    laneMenu.setSelectedId(static_cast<int>(editing.editor.get().shownLane) + 1, juce::dontSendNotification);
    if (!hasLaidOut || mode != newMode)
    {
        hasLaidOut = true;
        mode = newMode;
        for (juce::Component* child : std::initializer_list<juce::Component*>{
                 &tools[0], &tools[1], &tools[2], &tools[3], &capture, &open, &clear, &cycle, &rounds, &clipText})
            child->setVisible(isLoop);
        if (!isLoop)
            choose(DrawTool::none);
        resized();
    }
    if (!isLoop)
        return;
    const LoopView view = loop->view();
    const bool hasClip = view.state == ClipState::ready;
    const bool canDraw = hasClip && kLanes[editing.editor.get().shownLane].laneClass != LaneClass::output;
    for (IconButton& button : tools)
        button.setEnabled(canDraw);
    if (!canDraw && tool != DrawTool::none)
        choose(DrawTool::none);
    capture.setIcon(view.state == ClipState::capturing ? Icon::stop : Icon::record);
    capture.setToggleState(view.state == ClipState::capturing, juce::dontSendNotification);
    capture.setTitle(view.state == ClipState::capturing ? "Stop capturing" : "Capture a clip");
    capture.setTooltip(view.state == ClipState::capturing
                           ? "Stop: what was captured is the clip"
                           : "Capture: play, and what comes in becomes the clip; at most " +
                                 timeText::text(view.limitSeconds));
    clear.setEnabled(view.state != ClipState::empty);
    cycle.setToggleState(view.cycles, juce::dontSendNotification);
    rounds.setSelectedId(view.feedbackRounds, juce::dontSendNotification);
    const juce::String length = timeText::text(static_cast<double>(view.frames) / kFramesPerSecond);
    clipText.setText(view.state == ClipState::empty       ? juce::String("No clip")
                     : view.state == ClipState::capturing ? "Capturing " + length
                     : view.bounceIsStale                 ? length + " clip; lanes changed: bounce again"
                                                          : length + " clip");
    clipText.setColour(view.bounceIsStale ? +[](const Palette& p) { return p.stale; } : nullptr);
}

void TimelineView::paint(juce::Graphics& graphics) { fillPanel(graphics, getLocalBounds(), paletteOf(*this)); }

void TimelineView::resized()
{
    auto area = getLocalBounds().reduced(metrics::pad, 6).withTrimmedBottom(2);
    auto bar = area.removeFromTop(metrics::field);
    area.removeFromTop(3);
    canvas.setBounds(area);
    laneMenu.setBounds(bar.removeFromLeft(168));
    bar.removeFromLeft(metrics::gap);
    zoomIn.setBounds(bar.removeFromRight(metrics::field));
    bar.removeFromRight(2);
    zoomOut.setBounds(bar.removeFromRight(metrics::field));
    bar.removeFromRight(metrics::gap);
    if (mode == PlayMode::loop && loop != nullptr)
    {
        for (IconButton& button : tools)
        {
            button.setBounds(bar.removeFromLeft(metrics::field + 2));
            bar.removeFromLeft(2);
        }
        bar.removeFromLeft(2 * metrics::gap);
        for (IconButton* button : {&capture, &open, &clear})
        {
            button->setBounds(bar.removeFromLeft(metrics::field + 2));
            bar.removeFromLeft(2);
        }
        bar.removeFromLeft(metrics::gap);
        cycle.setBounds(bar.removeFromLeft(78));
        rounds.setBounds(bar.removeFromLeft(102));
        bar.removeFromLeft(metrics::gap);
    }
    const int wanted = legendWidth();
    const bool hasRoom = bar.getWidth() >= wanted + (mode == PlayMode::loop ? 110 : 0);
    legend.setVisible(hasRoom);
    if (hasRoom)
        legend.setBounds(bar.removeFromRight(wanted));
    clipText.setBounds(bar);
}
} // namespace demon
