// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <atomic>
#include <functional>
#include <juce_audio_processors/juce_audio_processors.h>
#include <map>
#include <optional>
#include <vector>

#include "PluginState.h"

namespace demon
{
/// A drawn stretch of a lane over the clip: what was there, and what is.
struct CurveChange
{
    std::size_t lane = 0;
    std::int64_t first = 0; ///< frame of the clip
    std::vector<float> before, after;
};

/// How to read and replace the settings of the plugin.
struct SettingsAccess
{
    std::function<Settings()> get;
    std::function<void(const Settings&)> put; ///< as the user would: the host is told that the project has changed
    std::function<void(const Settings&)> putQuietly; ///< no edit of the user's: the host is not told, no undo step
};

/// Undo and redo of everything that the user edits: parameters (from their gestures, so that a drag or a typed value is
/// one step), settings, drawn curves. Automation and state that the host restores are no edits and make no steps.
///
/// Message thread only, but requestClear. Calls from other threads that reach the listeners are no user's edits and
/// are ignored.
class UndoHistory : private juce::AudioProcessorListener
{
public:
    static constexpr std::size_t kMaxSteps = 200;

    /// `owner` must outlive the history.
    UndoHistory(juce::AudioProcessor& owner, SettingsAccess settings);
    ~UndoHistory() override;

    /// Draws `values` from frame `first` on, when a step with curves is undone or done again.
    std::function<void(std::size_t lane, std::int64_t first, const std::vector<float>& values)> drawCurve;

    void recordSettings(const Settings& before, const Settings& after);
    void recordCurve(const CurveChange& change);

    /// Everything that `edit` does is one step of that name; may be nested.
    template <class Edit> void together(const juce::String& name, Edit&& edit)
    {
        openStep(name);
        edit();
        closeStep();
    }

    bool undo(); ///< false when there is nothing to undo
    bool redo();
    juce::String undoName() const; ///< empty when there is nothing to undo
    juce::String redoName() const;

    /// Any thread: the steps are of another state; forget them.
    void requestClear() { clearRequested = true; }

private:
    struct LaneChange
    {
        float before = 0.0f, after = 0.0f; ///< proportions, 0 to 1
    };
    struct Step
    {
        juce::String name;
        std::optional<std::pair<Settings, Settings>> settings;
        std::map<int, LaneChange> parameters; ///< by the host's index
        std::vector<CurveChange> curves;
        juce::int64 madeAt = 0; ///< milliseconds
        bool isEmpty() const { return !settings && parameters.empty() && curves.empty(); }
    };

    void audioProcessorParameterChanged(juce::AudioProcessor*, int, float) override {}
    void audioProcessorChanged(juce::AudioProcessor*, const ChangeDetails&) override {}
    void audioProcessorParameterChangeGestureBegin(juce::AudioProcessor*, int index) override;
    void audioProcessorParameterChangeGestureEnd(juce::AudioProcessor*, int index) override;

    bool isUserEdit();
    void openStep(const juce::String& name);
    void closeStep();
    void push(Step step);
    bool merge(const Step& step);
    void apply(const Step& step, bool backwards);
    void clearIfRequested();
    juce::String parameterName(int index) const;

    juce::AudioProcessor& processor;
    const SettingsAccess access;
    std::vector<Step> done, undone;
    std::map<int, float> openGestures; ///< value before, by parameter
    std::optional<Step> openedStep;
    int nesting = 0;
    bool isRestoring = false;
    std::atomic<bool> clearRequested{false};
};
} // namespace demon
