// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include "../PluginProcessor.h"
#include "Models.h"
#include "RenderBinding.h"

namespace demon
{
/// The models of one processor. Message thread only.
class ProcessorModels
{
public:
    explicit ProcessorModels(PluginProcessor& owner) : processor(owner) {}
    EditorModels models();

private:
    struct Part
    {
        explicit Part(PluginProcessor& owner) : processor(owner) {}
        /// Changes the settings as the user's edit.
        template <class Edit> void edit(Edit&& change)
        {
            Settings wanted = processor.settings();
            change(wanted);
            processor.changeSettings(wanted);
        }
        PluginProcessor& processor;
    };

    struct Mode : Part, ModeModel
    {
        using Part::Part;
        PlayMode mode() const override { return processor.settings().mode; }
        void setMode(PlayMode wanted) override
        {
            edit([&](Settings& s) { s.mode = wanted; });
        }
    };

    struct Engine : Part, EngineModel
    {
        using Part::Part;
        EngineView view() const override;
        LaneFacts facts(std::size_t lane) const override;
        void setLatency(double seconds) override
        {
            edit([&](Settings& s) { s.latencySeconds = seconds; });
        }
        void setLatePolicy(LatePolicy policy) override
        {
            edit([&](Settings& s) { s.latePolicy = policy; });
        }
        void setTimeout(double seconds) override
        {
            edit([&](Settings& s) { s.timeoutSeconds = seconds; });
        }
        void setEndpoint(const juce::String& endpoint) override
        {
            edit([&](Settings& s) { s.endpoint = endpoint.toStdString(); });
        }
        void start() override { processor.engineStart().start(); }
        void setStartsByItself(bool wanted) override { processor.engineStart().setStartsByItself(wanted); }

        mutable LinkStatus link; ///< as of the last view(): facts() is asked for every lane
        mutable Settings settings;
    };

    struct Status : Part, StatusModel
    {
        using Part::Part;
        StatusView view() const override;
        void acknowledge() override { processor.acknowledgeErrors(); }
    };

    struct Clip : Part, LoopModel
    {
        using Part::Part;
        LoopView view() const override;
        void capture() override { processor.clip().capture(); }
        void stop() override { processor.clip().finish(); }
        juce::String load(const juce::File& file) override;
        void clear() override { processor.clip().clear(); }
        void setCycles(bool wanted) override
        {
            edit([&](Settings& s) { s.cycles = wanted; });
        }
        void setFeedbackRounds(int rounds) override
        {
            edit([&](Settings& s) { s.config.feedbackRounds = rounds; });
        }
    };

    struct References : Part, ReferenceModel
    {
        using Part::Part;
        ReferenceView view(ReferenceKind kind) const override;
        juce::String load(ReferenceKind kind, const juce::File& file) override;
        void clear(ReferenceKind kind) override
        {
            edit([&](Settings& s) { (kind == ReferenceKind::timbre ? s.extras.timbre : s.extras.structure) = {}; });
        }
    };

    struct Output : Part, OutputModel
    {
        using Part::Part;
        OutputView take() override;
        void setLoudnessMatch(bool wanted) override;
        void setLimiter(bool live, bool inBounces) override
        {
            edit([&](Settings& s) { s.limits = live, s.limitsBounces = inBounces; });
        }
    };

    PluginProcessor& processor;
    Mode mode{processor};
    Engine engine{processor};
    Status status{processor};
    Clip clip{processor};
    References references{processor};
    Output output{processor};
    RenderBinding render{processor};
};
} // namespace demon
