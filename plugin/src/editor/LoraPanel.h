// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <memory>

#include "Fader.h"
#include "Models.h"
#include "Panel.h"

namespace demon
{
/// Four places for LoRAs of the engine's catalogue, each with its strength.
class LoraPanel : public Panel
{
public:
    explicit LoraPanel(Editing& editing);
    void refresh(const EngineView& engine);
    void resized() override;
    static constexpr int kHeight = 174;

private:
    struct Place
    {
        std::unique_ptr<Menu> menu;
        std::unique_ptr<Fader> strength;
    };
    void fillMenu(std::size_t index);
    void choose(std::size_t index);

    Editing& editing;
    Text note{{}, Text::Tone::dim, juce::Justification::centredRight};
    std::array<Place, kLoraPlaces> places;
    std::array<LoraChoice, kLoraPlaces> shown;
    std::vector<std::string> names, hashes;
    bool hasFilled = false;
};
} // namespace demon
