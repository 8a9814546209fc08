// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <juce_core/juce_core.h>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "services/FrozenTake.h"
#include "services/Problem.h"
#include "services/RenderFile.h"

namespace demon
{
/// The frozen result of a plugin instance, outside the audio thread: makes it from a render, keeps its name in the
/// saved project, and has its audio in memory at the host's rate.
///
/// A project whose frozen take is missing or damaged stays frozen, with a problem that names the file: it plays the dry
/// signal. Quietly playing what an engine of today would make could be mistaken for what was frozen; the user thaws, or
/// puts the file back and reopens.
///
/// Any thread but the audio thread. Files are read and written on a thread of their own, which the destructor waits
/// for; no call but settle() waits for the disk.
class FreezeKeeper
{
public:
    /// `changed` is called, without a lock held and on any thread but the audio thread, when there is something else to
    /// play. It must not call back but for the questions. Takes are looked for in the folder where they were put, then
    /// in `userFolder`.
    FreezeKeeper(std::filesystem::path userFolder, std::function<void()> changed);
    ~FreezeKeeper();
    FreezeKeeper(const FreezeKeeper&) = delete;
    FreezeKeeper& operator=(const FreezeKeeper&) = delete;

    /// Copies `render` into `folder`, the user's when it is empty, and plays it as soon as it is there. A null or
    /// incomplete render is a problem, E_FROZEN_INCOMPLETE, and changes nothing else.
    void freeze(std::shared_ptr<const Render> render, const std::filesystem::path& folder = {});
    void thaw();

    /// Where the user says that the takes are now: what is frozen, and not there, is read again from this folder.
    void lookIn(const std::filesystem::path& folder);

    /// The host's rate. What is frozen is read again for another one, and also when it could not be read before.
    void setRate(int hostRate);

    /// Waits for the disk, until everything that was asked for is done. A bounce, which must not begin before.
    void settle() const;

    bool isFrozen() const;                                      ///< also while the audio is not there
    bool isWorking() const;                                     ///< reads or writes
    std::shared_ptr<const FrozenTake> take(int hostRate) const; ///< null while it is not there at this rate
    std::optional<Problem> problem() const;                     ///< of the last wish
    void acknowledge();                                         ///< a problem, unless it lasts

    /// <FROZEN id="64 hexadecimal digits" folder="/where/it/was/put"/>, or null when nothing is frozen.
    std::unique_ptr<juce::XmlElement> toXml() const;
    void fromXml(const juce::XmlElement* xml); ///< null: nothing is frozen

private:
    struct Choice
    {
        std::string id; ///< empty: nothing
        std::filesystem::path folder;
    };
    struct Wish
    {
        std::shared_ptr<const Render> render; ///< null: it is frozen already
        Choice choice;
        int rate = 0; ///< 0: not known, nothing is read
    };
    struct Outcome
    {
        Choice choice;
        std::shared_ptr<const FrozenTake> take;
        std::optional<Problem> problem;
    };

    void choose(Choice wanted);
    void want(Wish wish);
    void reload();
    void run();
    Outcome fulfil(const Wish& wish) const;
    bool accept(const Wish& wish, Outcome outcome);

    const std::filesystem::path userFolder;
    const std::function<void()> changed;

    mutable std::mutex mutex; ///< guards the rest
    mutable std::condition_variable settled;
    int rate = 0;
    Choice choice; ///< that plays, or would if its audio were there
    std::shared_ptr<const FrozenTake> loaded;
    std::optional<Problem> lastProblem;
    std::optional<Wish> next;
    int generation = 0; ///< of the wishes: what an older one brings counts for nothing
    bool works = false; ///< there is a worker, and it has not come to its end
    std::thread worker;
};
} // namespace demon
