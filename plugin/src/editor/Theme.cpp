// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Theme.h"

#include <algorithm>
#include <cmath>

namespace demon
{
namespace
{
/// The first of the well-made interface fonts that the system has.
juce::String findTypeface()
{
    static const juce::String found = []
    {
        const juce::StringArray names = juce::Font::findAllTypefaceNames();
        for (const char* name : {"Inter", "SF Pro Text", "Segoe UI", "Helvetica Neue", "Noto Sans", "Cantarell",
                                 "Ubuntu", "Liberation Sans", "Nimbus Sans", "DejaVu Sans"})
            if (names.contains(name))
                return juce::String(name);
        return juce::String();
    }();
    return found;
}

double luminance(juce::Colour colour)
{
    const auto linear = [](float channel)
    {
        const auto c = static_cast<double>(channel);
        return c <= 0.03928 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
    };
    return 0.2126 * linear(colour.getFloatRed()) + 0.7152 * linear(colour.getFloatGreen()) +
           0.0722 * linear(colour.getFloatBlue());
}

/// Draws a rectangle of half-pixel outline, crisp at every scale.
void strokeBox(juce::Graphics& graphics, juce::Rectangle<float> area, juce::Colour colour, float corner)
{
    graphics.setColour(colour);
    graphics.drawRoundedRectangle(area.reduced(0.5f), corner, 1.0f);
}
} // namespace

double contrast(juce::Colour a, juce::Colour b)
{
    const double first = luminance(a) + 0.05, second = luminance(b) + 0.05;
    return std::max(first, second) / std::min(first, second);
}

Palette Palette::dark()
{
    using C = juce::Colour;
    return {C(0xff121419), C(0xff1a1d24), C(0xff272c37), C(0xff101217), C(0xff363d4b), C(0xffeceef3),
            C(0xffa4adbd), C(0xffff7d4d), C(0xff1b1108), C(0xff8ea2c2), C(0xffff8a5c), C(0xff52d6cc),
            C(0xff58cf95), C(0xfff2bd45), C(0xffff7070), C(0xff98a2b3), C(0xffbf9fff)};
}

Palette Palette::light()
{
    using C = juce::Colour;
    return {C(0xffe9ebf0), C(0xfffbfbfd), C(0xffe6e9f0), C(0xffffffff), C(0xffc6ccd8), C(0xff171a20),
            C(0xff4f5969), C(0xffb93d0a), C(0xffffffff), C(0xff5b7195), C(0xffc9480f), C(0xff0b6f69),
            C(0xff146c3a), C(0xff835800), C(0xffb91c1c), C(0xff5a6372), C(0xff6b32c9)};
}

const Palette& paletteOf(const juce::Component& component)
{
    static const Palette fallback = Palette::dark();
    const auto* look = dynamic_cast<DemonLook*>(&component.getLookAndFeel());
    return look != nullptr ? look->palette() : fallback;
}

juce::Font uiFont(float height, bool bold)
{
    return juce::Font(findTypeface().isEmpty() ? juce::Font::getDefaultSansSerifFontName() : findTypeface(), height,
                      bold ? juce::Font::bold : juce::Font::plain);
}

void fillPanel(juce::Graphics& graphics, juce::Rectangle<int> area, const Palette& palette)
{
    graphics.setColour(palette.panel);
    graphics.fillRoundedRectangle(area.toFloat(), 7.0f);
}

DemonLook::DemonLook(bool isLight) : lightTheme(isLight), colours(isLight ? Palette::light() : Palette::dark())
{
    setDefaultSansSerifTypefaceName(findTypeface());
    applyColours();
}

void DemonLook::setLight(bool light)
{
    lightTheme = light;
    colours = light ? Palette::light() : Palette::dark();
    applyColours();
}

void DemonLook::applyColours()
{
    const Palette& p = colours;
    setColour(juce::ResizableWindow::backgroundColourId, p.window);
    setColour(juce::Label::textColourId, p.text);
    setColour(juce::Label::textWhenEditingColourId, p.text);
    setColour(juce::Label::backgroundWhenEditingColourId, p.well);
    setColour(juce::Label::outlineWhenEditingColourId, p.accent);
    setColour(juce::TextEditor::textColourId, p.text);
    setColour(juce::TextEditor::backgroundColourId, p.well);
    setColour(juce::TextEditor::outlineColourId, p.outline);
    setColour(juce::TextEditor::focusedOutlineColourId, p.accent);
    setColour(juce::TextEditor::highlightColourId, p.accent.withAlpha(0.35f));
    setColour(juce::TextEditor::highlightedTextColourId, p.text);
    setColour(juce::CaretComponent::caretColourId, p.accent);
    setColour(juce::TextButton::textColourOffId, p.text);
    setColour(juce::TextButton::textColourOnId, p.onAccent);
    setColour(juce::TextButton::buttonColourId, p.raised);
    setColour(juce::TextButton::buttonOnColourId, p.accent);
    setColour(juce::ToggleButton::textColourId, p.text);
    setColour(juce::ToggleButton::tickColourId, p.accent);
    setColour(juce::ComboBox::textColourId, p.text);
    setColour(juce::ComboBox::backgroundColourId, p.raised);
    setColour(juce::ComboBox::outlineColourId, p.outline);
    setColour(juce::PopupMenu::backgroundColourId, p.raised);
    setColour(juce::PopupMenu::textColourId, p.text);
    setColour(juce::PopupMenu::headerTextColourId, p.dimText);
    setColour(juce::PopupMenu::highlightedBackgroundColourId, p.accent);
    setColour(juce::PopupMenu::highlightedTextColourId, p.onAccent);
    setColour(juce::Slider::thumbColourId, p.accent);
    setColour(juce::Slider::trackColourId, p.accent);
    setColour(juce::Slider::backgroundColourId, p.raised);
    setColour(juce::Slider::textBoxTextColourId, p.text);
    setColour(juce::Slider::textBoxBackgroundColourId, juce::Colours::transparentBlack);
    setColour(juce::Slider::textBoxOutlineColourId, juce::Colours::transparentBlack);
    setColour(juce::Slider::textBoxHighlightColourId, p.accent.withAlpha(0.35f));
    setColour(juce::ScrollBar::thumbColourId, p.outline);
    setColour(juce::TooltipWindow::backgroundColourId, p.raised);
    setColour(juce::TooltipWindow::textColourId, p.text);
    setColour(juce::TooltipWindow::outlineColourId, p.outline);
    setColour(juce::AlertWindow::backgroundColourId, p.panel);
    setColour(juce::AlertWindow::textColourId, p.text);
    setColour(juce::AlertWindow::outlineColourId, p.outline);
}

juce::Font DemonLook::getTextButtonFont(juce::TextButton&, int) { return uiFont(); }
juce::Font DemonLook::getComboBoxFont(juce::ComboBox&) { return uiFont(); }
juce::Font DemonLook::getLabelFont(juce::Label& label) { return label.getFont(); }
juce::Font DemonLook::getPopupMenuFont() { return uiFont(15.0f); }

void DemonLook::drawButtonBackground(juce::Graphics& graphics, juce::Button& button, const juce::Colour&, bool over,
                                     bool down)
{
    const auto area = button.getLocalBounds().toFloat();
    juce::Colour fill = button.getToggleState() ? colours.accent : colours.raised;
    if (down || over)
        fill = fill.interpolatedWith(lightTheme ? juce::Colours::black : juce::Colours::white, down ? 0.16f : 0.07f);
    graphics.setColour(button.isEnabled() ? fill : fill.withMultipliedAlpha(0.45f));
    graphics.fillRoundedRectangle(area, metrics::corner);
}

void DemonLook::drawButtonText(juce::Graphics& graphics, juce::TextButton& button, bool, bool)
{
    graphics.setFont(getTextButtonFont(button, button.getHeight()));
    const juce::Colour colour = button.getToggleState() ? colours.onAccent : colours.text;
    graphics.setColour(button.isEnabled() ? colour : colours.dimText.withMultipliedAlpha(0.7f));
    graphics.drawFittedText(button.getButtonText(), button.getLocalBounds().reduced(6, 0), juce::Justification::centred,
                            1, 0.85f);
}

void DemonLook::drawToggleButton(juce::Graphics& graphics, juce::ToggleButton& button, bool over, bool)
{
    auto area = button.getLocalBounds().toFloat();
    const auto track = area.removeFromLeft(30.0f).withSizeKeepingCentre(28.0f, 16.0f);
    const bool on = button.getToggleState();
    const float alpha = button.isEnabled() ? 1.0f : 0.45f;
    graphics.setColour((on ? colours.accent : colours.raised).withMultipliedAlpha(alpha));
    graphics.fillRoundedRectangle(track, 8.0f);
    strokeBox(graphics, track, (over ? colours.text : colours.dimText).withMultipliedAlpha(on ? 0.0f : alpha), 8.0f);
    graphics.setColour((on ? colours.onAccent : colours.dimText).withMultipliedAlpha(alpha));
    graphics.fillEllipse(juce::Rectangle<float>(10.0f, 10.0f)
                             .withCentre({on ? track.getRight() - 8.0f : track.getX() + 8.0f, track.getCentreY()}));
    graphics.setColour(button.isEnabled() ? colours.text : colours.dimText);
    graphics.setFont(uiFont());
    graphics.drawFittedText(button.getButtonText(), area.toNearestInt().withTrimmedLeft(6),
                            juce::Justification::centredLeft, 1, 0.85f);
}

void DemonLook::drawComboBox(juce::Graphics& graphics, int width, int height, bool, int, int, int, int,
                             juce::ComboBox& box)
{
    const juce::Rectangle<float> area(0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height));
    const float alpha = box.isEnabled() ? 1.0f : 0.45f;
    graphics.setColour(
        (box.isMouseOver(true) ? colours.raised.contrasting(0.06f) : colours.raised).withMultipliedAlpha(alpha));
    graphics.fillRoundedRectangle(area, metrics::corner);
    const auto arrow = area.withLeft(area.getRight() - 20.0f).withSizeKeepingCentre(8.0f, 4.0f);
    juce::Path path;
    path.startNewSubPath(arrow.getTopLeft());
    path.lineTo(arrow.getCentreX(), arrow.getBottom());
    path.lineTo(arrow.getTopRight());
    graphics.setColour(colours.dimText.withMultipliedAlpha(alpha));
    graphics.strokePath(path, juce::PathStrokeType(1.5f, juce::PathStrokeType::curved, juce::PathStrokeType::rounded));
}

void DemonLook::positionComboBoxText(juce::ComboBox& box, juce::Label& label)
{
    label.setBounds(4, 0, box.getWidth() - 24, box.getHeight());
    label.setFont(getComboBoxFont(box));
}

void DemonLook::fillTextEditorBackground(juce::Graphics& graphics, int width, int height, juce::TextEditor& editor)
{
    if (dynamic_cast<juce::Label*>(editor.getParentComponent()) != nullptr)
        return graphics.fillAll(colours.well);
    graphics.setColour(editor.isEnabled() ? colours.well : colours.panel);
    graphics.fillRoundedRectangle(0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height), metrics::corner);
}

void DemonLook::drawTextEditorOutline(juce::Graphics& graphics, int width, int height, juce::TextEditor& editor)
{
    const bool focused = editor.hasKeyboardFocus(true) && !editor.isReadOnly();
    strokeBox(graphics, {0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height)},
              focused ? colours.accent : colours.outline, metrics::corner);
}

/// A slider may carry the proportions "origin", where its fill starts, and "default", where a mark stands.
void DemonLook::drawLinearSlider(juce::Graphics& graphics, int x, int y, int width, int height, float position, float,
                                 float, juce::Slider::SliderStyle, juce::Slider& slider)
{
    const juce::Rectangle<float> area(static_cast<float>(x), static_cast<float>(y), static_cast<float>(width),
                                      static_cast<float>(height));
    const auto track = area.withSizeKeepingCentre(area.getWidth(), 4.0f);
    const auto at = [&](const char* name, double fallback)
    {
        return track.getX() + track.getWidth() * static_cast<float>(static_cast<double>(
                                                     slider.getProperties().getWithDefault(name, fallback)));
    };
    const float alpha = slider.isEnabled() ? 1.0f : 0.35f;
    graphics.setColour(colours.raised.withMultipliedAlpha(slider.isEnabled() ? 1.0f : 0.6f));
    graphics.fillRoundedRectangle(track, 2.0f);
    const float origin = at("origin", 0.0);
    graphics.setColour(colours.accent.withMultipliedAlpha(alpha));
    graphics.fillRoundedRectangle(track.withLeft(std::min(origin, position)).withRight(std::max(origin, position)),
                                  2.0f);
    graphics.setColour(colours.dimText.withMultipliedAlpha(alpha));
    graphics.fillRect(juce::Rectangle<float>(1.5f, 10.0f).withCentre({at("default", 0.0), track.getCentreY()}));
    const bool active = slider.isMouseOverOrDragging(true) && slider.isEnabled();
    const auto thumb = juce::Rectangle<float>(active ? 14.0f : 12.0f, active ? 14.0f : 12.0f)
                           .withCentre({position, track.getCentreY()});
    graphics.setColour(colours.panel);
    graphics.fillEllipse(thumb.expanded(2.0f));
    graphics.setColour(slider.isEnabled() ? colours.accent : colours.dimText.withMultipliedAlpha(0.6f));
    graphics.fillEllipse(thumb);
}

juce::Slider::SliderLayout DemonLook::getSliderLayout(juce::Slider& slider)
{
    auto area = slider.getLocalBounds();
    juce::Slider::SliderLayout layout;
    if (slider.getTextBoxPosition() == juce::Slider::TextBoxRight)
        layout.textBoxBounds = area.removeFromRight(slider.getTextBoxWidth())
                                   .withSizeKeepingCentre(slider.getTextBoxWidth(), std::min(slider.getHeight(), 22));
    layout.sliderBounds = area.reduced(9, 0);
    return layout;
}

juce::Label* DemonLook::createSliderTextBox(juce::Slider& slider)
{
    juce::Label* label = LookAndFeel_V2::createSliderTextBox(slider);
    label->setFont(uiFont());
    label->setJustificationType(juce::Justification::centredRight);
    label->setMinimumHorizontalScale(0.9f);
    label->setTitle(slider.getTitle() + " value");
    return label;
}

void DemonLook::drawScrollbar(juce::Graphics& graphics, juce::ScrollBar& bar, int x, int y, int width, int height,
                              bool vertical, int start, int size, bool over, bool down)
{
    const auto thumb =
        vertical ? juce::Rectangle<int>(x, start, width, size) : juce::Rectangle<int>(start, y, size, height);
    juce::ignoreUnused(bar);
    graphics.setColour(over || down ? colours.dimText : colours.outline);
    graphics.fillRoundedRectangle(thumb.toFloat().reduced(3.0f, 2.0f), 2.5f);
}

namespace
{
juce::TextLayout layOutTip(const juce::String& text, juce::Colour colour)
{
    juce::AttributedString attributed;
    attributed.setJustification(juce::Justification::centredLeft);
    attributed.append(text, uiFont(), colour);
    juce::TextLayout layout;
    layout.createLayout(attributed, 340.0f);
    return layout;
}
} // namespace

juce::Rectangle<int> DemonLook::getTooltipBounds(const juce::String& text, juce::Point<int> at,
                                                 juce::Rectangle<int> within)
{
    const juce::TextLayout layout = layOutTip(text, colours.text);
    const int width = static_cast<int>(layout.getWidth()) + 20, height = static_cast<int>(layout.getHeight()) + 14;
    return juce::Rectangle<int>(at.x > within.getCentreX() ? at.x - width - 12 : at.x + 16,
                                at.y > within.getCentreY() ? at.y - height - 6 : at.y + 16, width, height)
        .constrainedWithin(within);
}

void DemonLook::drawTooltip(juce::Graphics& graphics, const juce::String& text, int width, int height)
{
    const juce::Rectangle<float> area(0.0f, 0.0f, static_cast<float>(width), static_cast<float>(height));
    graphics.setColour(colours.raised);
    graphics.fillRect(area);
    strokeBox(graphics, area, colours.outline, 0.0f);
    layOutTip(text, colours.text).draw(graphics, area.reduced(10.0f, 7.0f));
}

std::unique_ptr<juce::FocusOutline> DemonLook::createFocusOutlineForComponent(juce::Component&)
{
    struct Properties : juce::FocusOutline::OutlineWindowProperties
    {
        explicit Properties(juce::Colour wanted) : colour(wanted) {}
        juce::Rectangle<int> getOutlineBounds(juce::Component& focused) override
        {
            return focused.getScreenBounds().expanded(2);
        }
        void drawOutline(juce::Graphics& graphics, int width, int height) override
        {
            graphics.setColour(colour);
            graphics.drawRoundedRectangle(juce::Rectangle<int>(width, height).toFloat().reduced(1.0f),
                                          metrics::corner + 1.0f, 2.0f);
        }
        const juce::Colour colour;
    };
    return std::make_unique<juce::FocusOutline>(std::make_unique<Properties>(colours.accent));
}
} // namespace demon
