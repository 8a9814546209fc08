// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../PluginProcessor.h"
#include "Models.h"

namespace demon
{
/// The models of one processor: what it has is shown, what it lacks is left out.
class ProcessorModels : private EngineModel
{
public:
    explicit ProcessorModels(PluginProcessor& owner) : processor(owner) {}
    EditorModels models();

private:
    EngineView view() const override;
    LaneFacts facts(std::size_t lane) const override;
    void setLatency(double seconds) override;
    void setLatePolicy(LatePolicy policy) override;
    void setTimeout(double seconds) override;
    void setEndpoint(const juce::String& endpoint) override;
    void start() override {} // view().canStart is false: nothing here starts engines
    void setStartsByItself(bool) override {}

    struct Status : StatusModel
    {
        explicit Status(PluginProcessor& owner) : processor(owner) {}
        StatusView view() const override;
        void acknowledge() override { processor.acknowledgeErrors(); }
        PluginProcessor& processor;
    };

    PluginProcessor& processor;
    Status status{processor};
    mutable std::vector<std::string> actedLanes; ///< by the engine, as of the last view()
};
} // namespace demon
