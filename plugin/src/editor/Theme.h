// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <juce_gui_basics/juce_gui_basics.h>

namespace demon
{
/// The colours of a theme. Texts have a contrast of at least 4.5 to what they stand on; a test computes it.
struct Palette
{
    juce::Colour window, panel, raised, well, outline;
    juce::Colour text, dimText;
    juce::Colour accent, onAccent;
    juce::Colour source, generated, curve;
    juce::Colour ready, inFlight, late, waiting, stale;

    static Palette dark();
    static Palette light();
};

/// Sizes that several components share, in logical pixels.
namespace metrics
{
inline constexpr int gap = 8, pad = 12, row = 28, field = 26, title = 26;
inline constexpr float corner = 5.0f, textSize = 14.0f, smallSize = 12.5f;
} // namespace metrics

/// Draws the editor's controls in the colours of a palette. Vectors only. Message thread.
class DemonLook : public juce::LookAndFeel_V4
{
public:
    explicit DemonLook(bool isLight = false);

    void setLight(bool light);
    bool isLight() const { return lightTheme; }
    const Palette& palette() const { return colours; }

    juce::Font getTextButtonFont(juce::TextButton&, int) override;
    juce::Font getComboBoxFont(juce::ComboBox&) override;
    juce::Font getLabelFont(juce::Label&) override;
    juce::Font getPopupMenuFont() override;

    void drawButtonBackground(juce::Graphics&, juce::Button&, const juce::Colour&, bool over, bool down) override;
    void drawButtonText(juce::Graphics&, juce::TextButton&, bool over, bool down) override;
    void drawToggleButton(juce::Graphics&, juce::ToggleButton&, bool over, bool down) override;
    void drawComboBox(juce::Graphics&, int width, int height, bool down, int, int, int, int, juce::ComboBox&) override;
    void positionComboBoxText(juce::ComboBox&, juce::Label&) override;
    void fillTextEditorBackground(juce::Graphics&, int width, int height, juce::TextEditor&) override;
    void drawTextEditorOutline(juce::Graphics&, int width, int height, juce::TextEditor&) override;
    void drawLinearSlider(juce::Graphics&, int x, int y, int width, int height, float position, float, float,
                          juce::Slider::SliderStyle, juce::Slider&) override;
    juce::Slider::SliderLayout getSliderLayout(juce::Slider&) override;
    juce::Label* createSliderTextBox(juce::Slider&) override;
    void drawScrollbar(juce::Graphics&, juce::ScrollBar&, int x, int y, int width, int height, bool vertical, int start,
                       int size, bool over, bool down) override;
    int getDefaultScrollbarWidth() override { return 10; }
    void drawTooltip(juce::Graphics&, const juce::String&, int width, int height) override;
    juce::Rectangle<int> getTooltipBounds(const juce::String&, juce::Point<int>, juce::Rectangle<int>) override;
    std::unique_ptr<juce::FocusOutline> createFocusOutlineForComponent(juce::Component&) override;

private:
    void applyColours();

    bool lightTheme;
    Palette colours;
};

/// The palette that `component` is drawn in.
const Palette& paletteOf(const juce::Component& component);

/// A font of the interface; `bold` for titles.
juce::Font uiFont(float height = metrics::textSize, bool bold = false);

/// A panel's rounded background.
void fillPanel(juce::Graphics&, juce::Rectangle<int> area, const Palette&);

/// Relative contrast of two opaque colours, 1 to 21, as WCAG 2 defines it.
double contrast(juce::Colour a, juce::Colour b);
} // namespace demon
