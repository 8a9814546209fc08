// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <array>
#include <filesystem>
#include <functional>
#include <juce_core/juce_core.h>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "PluginState.h"
#include "core/ClipAudio.h"
#include "services/Problem.h"

namespace demon
{
enum class ReferenceKind
{
    timbre,
    structure
};

/// The audio of the references that the settings name by hash: read from files, kept in the saved project, handed to
/// the link.
///
/// Any thread but the audio thread. Files are read on a thread of their own, which the destructor waits for.
class ReferenceKeeper
{
public:
    static constexpr double kMostSeconds = 60.0; ///< what is longer is cut

    using Known = std::vector<std::shared_ptr<const ReferenceAudio>>;

    /// `provide` gets all audio whenever it changes; `choose` then gets what a file has become, for the settings. Both
    /// are called on any thread, `choose` without a lock held.
    ReferenceKeeper(std::function<void(Known)> provide,
                    std::function<void(ReferenceKind, const ReferenceChoice&)> choose);
    ~ReferenceKeeper();
    ReferenceKeeper(const ReferenceKeeper&) = delete;
    ReferenceKeeper& operator=(const ReferenceKeeper&) = delete;

    void load(ReferenceKind kind, const std::filesystem::path& file);
    bool isLoading(ReferenceKind kind) const;
    std::optional<Problem> problem(ReferenceKind kind) const; ///< of the last file
    void acknowledge();                                       ///< the problems

    bool has(const std::string& hash) const; ///< its audio is here

    /// <AUDIO hash="..." rate="48000" samples="96000">...</AUDIO> for each hash that `settings` names and that is here.
    void addXml(juce::XmlElement& parent, const Settings& settings);
    void fromXml(const juce::XmlElement& parent);

private:
    void add(std::shared_ptr<const ReferenceAudio> audio);
    std::shared_ptr<const ReferenceAudio> find(const std::string& hash) const;

    const std::function<void(Known)> provide;
    const std::function<void(ReferenceKind, const ReferenceChoice&)> choose;

    mutable std::mutex mutex; ///< guards the rest
    Known known;              ///< also those that undo may ask for again, in the order of their arrival
    std::array<bool, 2> reads{};
    std::array<std::optional<Problem>, 2> problems;
    std::array<std::thread, 2> readers;
};
} // namespace demon
