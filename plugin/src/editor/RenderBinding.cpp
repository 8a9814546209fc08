// SPDX-License-Identifier: AGPL-3.0-or-later
#include "RenderBinding.h"

#include "services/FrozenStore.h"

namespace demon
{
namespace
{
/// "12.0 s by embedded"
juce::String describe(const Receipt& receipt)
{
    const double seconds = static_cast<double>(receipt.samples) / receipt.rate;
    return juce::String(seconds, 1) + " s by " + juce::String::fromUTF8(receipt.engine.checkpoint.c_str());
}
} // namespace

RenderView RenderBinding::view() const
{
    const FreezeKeeper& frozen = processor.frozen();
    const auto last = processor.renders().lastRender();
    RenderView view;
    if (last != nullptr)
        view.last = juce::File(juce::String::fromUTF8(last->wav.string().c_str()));
    view.isFrozen = frozen.isFrozen();
    view.canFreeze = !view.isFrozen && !frozen.isWorking() && processor.renders().lastComplete() != nullptr;
    view.isStale = processor.isFrozenStale();
    view.text = textOf(view, last.get());
    const std::string chosen = processor.editing().editor.get().frozenFolder;
    view.isUsersFolder = chosen.empty();
    view.folder =
        juce::File(juce::String::fromUTF8((view.isUsersFolder ? FrozenStore::userFolder().string() : chosen).c_str()));
    return view;
}

void RenderBinding::setFolder(const juce::File& folder)
{
    processor.editing().editor.change([&](EditorState& state)
                                      { state.frozenFolder = folder.getFullPathName().toStdString(); });
    processor.frozen().lookIn(folder.getFullPathName().toStdString());
    processor.updateHostDisplay(juce::AudioProcessor::ChangeDetails().withNonParameterStateChanged(true));
}

juce::String RenderBinding::textOf(const RenderView& view, const Render* last) const
{
    const FreezeKeeper& frozen = processor.frozen();
    if (frozen.isWorking())
        return view.isFrozen ? "Reading what is frozen" : "Freezing";
    if (view.isFrozen)
    {
        const auto take = frozen.take(juce::roundToInt(processor.getSampleRate()));
        if (take == nullptr)
            return "Frozen, but not there";
        return "Frozen: " + describe(take->receipt) + (view.isStale ? ", stale: thaw and bounce again" : "");
    }
    if (last == nullptr)
        return {};
    if (last->receipt.isComplete)
        return describe(last->receipt);
    return describe(last->receipt) + ", with gaps" + (view.canFreeze ? "; Freeze takes the bounce before it" : "");
}
} // namespace demon
