// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../PluginProcessor.h"
#include "Models.h"

namespace demon
{
/// Renders and what is frozen of one processor, for the editor. Message thread only.
class RenderBinding : public RenderModel
{
public:
    explicit RenderBinding(PluginProcessor& owner) : processor(owner) {}

    RenderView view() const override;
    void setFrozen(bool wanted) override { processor.setFrozen(wanted); }
    void setFolder(const juce::File& folder) override;

private:
    juce::String textOf(const RenderView& view, const Render* last) const;

    PluginProcessor& processor;
};
} // namespace demon
