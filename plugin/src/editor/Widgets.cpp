// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Widgets.h"

namespace demon
{
juce::Path iconPath(Icon icon)
{
    juce::Path p;
    const auto polyline = [&](std::initializer_list<juce::Point<float>> points)
    {
        bool isFirst = true;
        for (const auto& point : points)
        {
            if (isFirst)
                p.startNewSubPath(point);
            else
                p.lineTo(point);
            isFirst = false;
        }
    };
    switch (icon)
    {
    case Icon::undo:
    case Icon::redo:
        polyline({{0.38f, 0.12f}, {0.12f, 0.36f}, {0.38f, 0.6f}});
        p.startNewSubPath(0.12f, 0.36f);
        p.lineTo(0.6f, 0.36f);
        p.addCentredArc(0.6f, 0.61f, 0.25f, 0.25f, 0.0f, 0.0f, juce::MathConstants<float>::pi);
        p.lineTo(0.4f, 0.86f);
        if (icon == Icon::redo)
            p.applyTransform(juce::AffineTransform::scale(-1.0f, 1.0f, 0.5f, 0.5f));
        break;
    case Icon::previous:
        polyline({{0.62f, 0.18f}, {0.34f, 0.5f}, {0.62f, 0.82f}});
        break;
    case Icon::next:
        polyline({{0.38f, 0.18f}, {0.66f, 0.5f}, {0.38f, 0.82f}});
        break;
    case Icon::menu:
        for (const float y : {0.24f, 0.5f, 0.76f})
            polyline({{0.14f, y}, {0.86f, y}});
        break;
    case Icon::copy:
        polyline({{0.08f, 0.5f}, {0.9f, 0.5f}});
        polyline({{0.62f, 0.22f}, {0.9f, 0.5f}, {0.62f, 0.78f}});
        break;
    case Icon::theme:
        p.addEllipse(0.12f, 0.12f, 0.76f, 0.76f);
        for (const float x : {0.58f, 0.68f, 0.78f})
            polyline({{x, 0.5f - 0.36f * std::sqrt(1.0f - (x - 0.5f) * (x - 0.5f) / 0.1444f)},
                      {x, 0.5f + 0.36f * std::sqrt(1.0f - (x - 0.5f) * (x - 0.5f) / 0.1444f)}});
        polyline({{0.5f, 0.12f}, {0.5f, 0.88f}});
        break;
    case Icon::power:
        p.addCentredArc(0.5f, 0.54f, 0.34f, 0.34f, 0.0f, 0.7f, 2.0f * juce::MathConstants<float>::pi - 0.7f, true);
        polyline({{0.5f, 0.1f}, {0.5f, 0.48f}});
        break;
    case Icon::dice:
        p.addRoundedRectangle(0.12f, 0.12f, 0.76f, 0.76f, 0.14f);
        for (const auto& dot :
             {juce::Point<float>(0.32f, 0.32f), {0.68f, 0.32f}, {0.5f, 0.5f}, {0.32f, 0.68f}, {0.68f, 0.68f}})
            p.addEllipse(juce::Rectangle<float>(0.06f, 0.06f).withCentre(dot));
        break;
    case Icon::lock:
        p.addRoundedRectangle(0.18f, 0.46f, 0.64f, 0.42f, 0.06f);
        p.startNewSubPath(0.3f, 0.46f);
        p.lineTo(0.3f, 0.32f);
        p.addCentredArc(0.5f, 0.32f, 0.2f, 0.2f, 0.0f, -juce::MathConstants<float>::halfPi,
                        juce::MathConstants<float>::halfPi);
        p.lineTo(0.7f, 0.46f);
        break;
    case Icon::history:
        p.addCentredArc(0.54f, 0.5f, 0.36f, 0.36f, 0.0f, -1.9f, 3.6f, true);
        polyline({{0.06f, 0.4f}, {0.2f, 0.62f}, {0.38f, 0.44f}});
        polyline({{0.54f, 0.28f}, {0.54f, 0.52f}, {0.7f, 0.62f}});
        break;
    case Icon::smooth:
        p.startNewSubPath(0.08f, 0.78f);
        p.cubicTo(0.5f, 0.78f, 0.45f, 0.22f, 0.92f, 0.22f);
        break;
    case Icon::line:
        polyline({{0.08f, 0.8f}, {0.46f, 0.26f}, {0.92f, 0.62f}});
        break;
    case Icon::step:
        polyline({{0.08f, 0.76f}, {0.38f, 0.76f}, {0.38f, 0.26f}, {0.66f, 0.26f}, {0.66f, 0.54f}, {0.92f, 0.54f}});
        break;
    case Icon::eraser:
        polyline({{0.34f, 0.84f}, {0.1f, 0.6f}, {0.56f, 0.14f}, {0.88f, 0.46f}, {0.5f, 0.84f}, {0.34f, 0.84f}});
        polyline({{0.34f, 0.36f}, {0.66f, 0.68f}});
        polyline({{0.34f, 0.84f}, {0.92f, 0.84f}});
        break;
    case Icon::zoomIn:
    case Icon::zoomOut:
        p.addEllipse(0.12f, 0.12f, 0.56f, 0.56f);
        polyline({{0.61f, 0.61f}, {0.9f, 0.9f}});
        polyline({{0.28f, 0.4f}, {0.52f, 0.4f}});
        if (icon == Icon::zoomIn)
            polyline({{0.4f, 0.28f}, {0.4f, 0.52f}});
        break;
    case Icon::record:
        p.addEllipse(0.14f, 0.14f, 0.72f, 0.72f);
        p.addEllipse(0.38f, 0.38f, 0.24f, 0.24f);
        break;
    case Icon::stop:
        p.addRectangle(0.24f, 0.24f, 0.52f, 0.52f);
        break;
    case Icon::file:
        polyline({{0.58f, 0.1f}, {0.22f, 0.1f}, {0.22f, 0.9f}, {0.8f, 0.9f}, {0.8f, 0.32f}, {0.58f, 0.1f}});
        polyline({{0.58f, 0.1f}, {0.58f, 0.32f}, {0.8f, 0.32f}});
        break;
    case Icon::remove:
        polyline({{0.24f, 0.24f}, {0.76f, 0.76f}});
        polyline({{0.76f, 0.24f}, {0.24f, 0.76f}});
        break;
    case Icon::drag:
        polyline({{0.5f, 0.1f}, {0.5f, 0.62f}});
        polyline({{0.28f, 0.42f}, {0.5f, 0.64f}, {0.72f, 0.42f}});
        polyline({{0.12f, 0.66f}, {0.12f, 0.88f}, {0.88f, 0.88f}, {0.88f, 0.66f}});
        break;
    case Icon::folder:
        polyline(
            {{0.1f, 0.8f}, {0.1f, 0.22f}, {0.4f, 0.22f}, {0.5f, 0.34f}, {0.9f, 0.34f}, {0.9f, 0.8f}, {0.1f, 0.8f}});
        break;
    }
    return p;
}

IconButton::IconButton(Icon wanted, const juce::String& name) : Button(name), icon(wanted) { named(*this, name); }

void IconButton::setIcon(Icon wanted)
{
    icon = wanted;
    repaint();
}

void IconButton::paintButton(juce::Graphics& graphics, bool over, bool down)
{
    const Palette& p = paletteOf(*this);
    const bool on = getToggleState();
    if (on || over || down)
    {
        graphics.setColour(on ? p.accent : p.raised);
        graphics.fillRoundedRectangle(getLocalBounds().toFloat(), metrics::corner);
    }
    const float size = juce::jmin(16.0f, static_cast<float>(juce::jmin(getWidth(), getHeight())) - 8.0f);
    const auto box = getLocalBounds().toFloat().withSizeKeepingCentre(size, size);
    const juce::Colour colour = on ? p.onAccent : over ? p.text : p.dimText;
    graphics.setColour(isEnabled() ? colour : p.dimText.withMultipliedAlpha(0.4f));
    juce::Path path = iconPath(icon);
    path.applyTransform(juce::AffineTransform::scale(size).translated(box.getX(), box.getY()));
    graphics.strokePath(path, juce::PathStrokeType(1.4f, juce::PathStrokeType::curved, juce::PathStrokeType::rounded));
}

Choice::Choice(const juce::String& name, const std::vector<Option>& options)
{
    setTitle(name);
    setFocusContainerType(FocusContainerType::focusContainer);
    for (const Option& option : options)
    {
        auto& button = *buttons.emplace_back(std::make_unique<juce::TextButton>(option.text));
        named(button, name + ": " + option.text, option.tip);
        button.setClickingTogglesState(false);
        const int index = static_cast<int>(buttons.size()) - 1;
        button.onClick = [this, index]
        {
            if (onChoice && index != current)
                onChoice(index);
        };
        addAndMakeVisible(button);
    }
}

void Choice::setSelected(int index)
{
    current = index;
    for (int i = 0; i < static_cast<int>(buttons.size()); ++i)
        button(i).setToggleState(i == index, juce::dontSendNotification);
}

void Choice::paint(juce::Graphics& graphics)
{
    graphics.setColour(paletteOf(*this).raised);
    graphics.fillRoundedRectangle(getLocalBounds().toFloat(), metrics::corner);
}

void Choice::resized()
{
    const int count = static_cast<int>(buttons.size());
    for (int i = 0; i < count; ++i)
        button(i).setBounds(getWidth() * i / count, 0, getWidth() * (i + 1) / count - getWidth() * i / count,
                            getHeight());
}

Field::Field(const juce::String& name, const juce::String& tip, const juce::String& wantedHint)
    : TextEditor(name), hint(wantedHint)
{
    setTitle(name);
    setDescription(name);
    setTooltip(tip);
    setFont(uiFont());
    setIndents(8, 0);
    setBorder({});
    setJustification(juce::Justification::centredLeft);
    setSelectAllWhenFocused(true);
    onReturnKey = onFocusLost = [this] { apply(); };
    onEscapeKey = [this] { setText(shown, false); };
    lookAndFeelChanged();
}

void Field::show(const juce::String& text)
{
    if (text == shown && (hasKeyboardFocus(true) || getText() == text))
        return;
    shown = text;
    setText(text, false);
    setCaretPosition(0);
}

void Field::apply()
{
    if (getText() != shown && onApply)
        onApply(getText());
}

void Field::focusGained(FocusChangeType type)
{
    TextEditor::focusGained(type);
    repaint();
}

void Field::lookAndFeelChanged()
{
    applyColourToAllText(paletteOf(*this).text); // sets the colour of this field as well
    setTextToShowWhenEmpty(hint, paletteOf(*this).dimText);
}

Menu::Menu(const juce::String& name, const juce::String& tip)
{
    named(*this, name, tip);
    setDescription(name); // it announces its value in place of the title
}

Text::Text(const juce::String& wanted, Tone wantedTone, juce::Justification where)
    : text(wanted), tone(wantedTone), justification(where)
{
    setTitle(text);
}

void Text::setText(const juce::String& wanted)
{
    if (wanted == text)
        return;
    text = wanted;
    setTitle(text);
    repaint();
}

void Text::setColour(juce::Colour (*wanted)(const Palette&))
{
    if (colour != wanted)
    {
        colour = wanted;
        repaint();
    }
}

void Text::paint(juce::Graphics& graphics)
{
    const Palette& p = paletteOf(*this);
    graphics.setFont(tone == Tone::dim ? uiFont(metrics::smallSize) : uiFont(metrics::textSize, tone == Tone::title));
    graphics.setColour(colour != nullptr ? colour(p) : tone == Tone::dim ? p.dimText : p.text);
    const int lines = juce::jmax(1, getHeight() / 17);
    graphics.drawFittedText(text, getLocalBounds(), justification, lines, 0.85f);
}

std::unique_ptr<juce::AccessibilityHandler> Text::createAccessibilityHandler()
{
    return std::make_unique<juce::AccessibilityHandler>(*this, juce::AccessibilityRole::staticText);
}

void askForText(juce::Component& parent, const juce::String& title, const juce::String& text,
                std::function<void(const juce::String&)> onText)
{
    auto* window = new juce::AlertWindow(title, {}, juce::MessageBoxIconType::NoIcon, &parent);
    window->addTextEditor("text", text);
    window->addButton("OK", 1, juce::KeyPress(juce::KeyPress::returnKey));
    window->addButton("Cancel", 0, juce::KeyPress(juce::KeyPress::escapeKey));
    window->enterModalState(true,
                            juce::ModalCallbackFunction::create(
                                [window, onText = std::move(onText)](int result)
                                {
                                    if (result == 1)
                                        onText(window->getTextEditorContents("text"));
                                }),
                            true);
}

void tell(juce::Component& parent, const juce::String& title, const juce::String& text)
{
    juce::AlertWindow::showMessageBoxAsync(juce::MessageBoxIconType::NoIcon, title, text, "OK", &parent);
}
} // namespace demon
