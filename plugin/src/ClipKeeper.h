// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <filesystem>
#include <juce_core/juce_core.h>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/ClipAudio.h"
#include "core/Loop.h"
#include "link/EngineLink.h"
#include "services/Problem.h"

namespace demon
{
/// The clip of a plugin instance, outside the audio thread: asks for its capture, fills it from a file, gives it to
/// every new Loop at that one's rate, and keeps it in the saved project.
///
/// Any thread but the audio thread. Files are read on a thread of their own, which the destructor waits for.
class ClipKeeper
{
public:
    /// Both must outlive the keeper.
    ClipKeeper(EngineLink& engineLink, EpochNumbers& epochNumbers);
    ~ClipKeeper();
    ClipKeeper(const ClipKeeper&) = delete;
    ClipKeeper& operator=(const ClipKeeper&) = delete;

    /// Keeps what the loop has become so far. Before the link is attached to another player.
    void remember();

    /// `loop` plays from now on, null for a stream; the clip goes into it. After the link is attached to it.
    void attach(std::shared_ptr<Loop> loop);

    void capture(); ///< from the next block on the timeline on; nothing without a Loop
    void finish();  ///< the clip has what was captured so far
    void cancel();
    void clear(); ///< no clip any more

    /// Reads a file in the background and makes it the clip, its first sample at frame `firstFrame`, its lanes held at
    /// `lanes`.
    void load(const std::filesystem::path& file, std::int64_t firstFrame, const WireLaneValues& lanes);
    bool isLoading() const;
    std::optional<Problem> problem() const; ///< of the last file
    void acknowledge();                     ///< the problem
    std::string fileName() const;           ///< that the clip came from, or empty

    /// Draws values from frame `first` of the timeline on; without values the lane follows the host again. What finds
    /// no room now is drawn at the next tidy().
    void draw(std::size_t wireColumn, std::int64_t first, const std::vector<float>& values);

    void tidy(); ///< now and then: frees clips that are out of use, and goes on with drawings

    ClipSource clip() const; ///< without a source when there is none

    /// <CLIP>, or null without a clip: see ClipXml.cpp.
    std::unique_ptr<juce::XmlElement> toXml();
    void fromXml(const juce::XmlElement* xml); ///< null: a project without a clip

private:
    void giveToLoop();
    void withdraw(const std::shared_ptr<LoopClip>& displaced);
    void rememberLocked();
    void setClip(ClipSource source, const std::string& name);
    void flushDrawings();

    EngineLink& link;
    EpochNumbers& epochs;

    mutable std::mutex mutex; ///< guards the rest
    std::shared_ptr<Loop> loop;
    ClipSource kept; ///< its epoch counts for nothing
    std::string name;
    bool reads = false;
    int generation = 0; ///< of the clip: what a file brings after another wish counts for nothing
    std::optional<Problem> lastProblem;
    std::vector<LaneDrawing> drawings;           ///< that found no room
    std::weak_ptr<const ClipAudio> packedSource; ///< what packedAudio holds
    juce::String packedAudio;
    std::thread reader;
};
} // namespace demon
