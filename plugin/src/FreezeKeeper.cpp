// SPDX-License-Identifier: AGPL-3.0-or-later
#include "FreezeKeeper.h"

#include <utility>
#include <vector>

#include "services/FrozenStore.h"

namespace demon
{
FreezeKeeper::FreezeKeeper(std::filesystem::path usersFolder, std::function<void()> whenChanged)
    : userFolder(std::move(usersFolder)), changed(std::move(whenChanged))
{
}

FreezeKeeper::~FreezeKeeper()
{
    {
        const std::lock_guard lock(mutex);
        next.reset();
        ++generation;
    }
    if (worker.joinable())
        worker.join();
}

void FreezeKeeper::freeze(std::shared_ptr<const Render> render, const std::filesystem::path& folder)
{
    const std::lock_guard lock(mutex);
    if (render == nullptr || !render->receipt.isComplete)
    {
        lastProblem = Problem{"E_FROZEN_INCOMPLETE", "there is no complete render: bounce the track once, then freeze"};
        return;
    }
    want({std::move(render), {{}, folder.empty() ? userFolder : folder}, rate});
}

void FreezeKeeper::thaw() { choose({}); }

void FreezeKeeper::lookIn(const std::filesystem::path& folder)
{
    const std::lock_guard lock(mutex);
    if (choice.id.empty() || loaded != nullptr)
        return;
    choice.folder = folder;
    reload();
}

void FreezeKeeper::setRate(int hostRate)
{
    const std::lock_guard lock(mutex);
    rate = hostRate;
    if (next)
        next->rate = rate;
    if (!works && (loaded == nullptr || loaded->rate != rate))
        reload(); // else the worker sees to it
}

/// The mutex is held.
void FreezeKeeper::reload()
{
    loaded.reset();
    if (!choice.id.empty() && rate > 0 && !next)
        want({nullptr, choice, rate});
}

/// The mutex is held. The newest wish counts.
void FreezeKeeper::want(Wish wish)
{
    lastProblem.reset();
    ++generation;
    next = std::move(wish);
    if (works)
        return;
    if (worker.joinable())
        worker.join(); // has ended, but for its last few instructions, which need no lock
    works = true;
    worker = std::thread([this] { run(); });
}

void FreezeKeeper::run()
{
    for (;;)
    {
        Wish wish;
        int wanted = 0;
        {
            const std::lock_guard lock(mutex);
            if (!next)
            {
                works = false;
                settled.notify_all();
                return;
            }
            wish = *std::exchange(next, std::nullopt);
            wanted = generation;
        }
        Outcome outcome = fulfil(wish);
        bool isOther = false;
        {
            const std::lock_guard lock(mutex);
            isOther = wanted == generation && accept(wish, std::move(outcome));
        }
        if (isOther)
            changed();
    }
}

FreezeKeeper::Outcome FreezeKeeper::fulfil(const Wish& wish) const
{
    Outcome outcome{wish.choice, nullptr, std::nullopt};
    if (wish.render != nullptr)
    {
        auto id = FrozenStore::freeze(*wish.render, wish.choice.folder);
        if (const Problem* problem = std::get_if<Problem>(&id))
        {
            outcome.problem = *problem;
            return outcome;
        }
        outcome.choice.id = std::get<std::string>(std::move(id));
    }
    if (wish.rate <= 0)
        return outcome;
    std::vector<std::filesystem::path> folders{userFolder};
    if (!wish.choice.folder.empty() && wish.choice.folder != userFolder)
        folders.insert(folders.begin(), wish.choice.folder);
    auto take = FrozenStore(std::move(folders)).load(outcome.choice.id, wish.rate);
    if (const Problem* problem = std::get_if<Problem>(&take))
        outcome.problem = *problem;
    else
        outcome.take = std::get<std::shared_ptr<const FrozenTake>>(std::move(take));
    return outcome;
}

/// The mutex is held. True when there is something else to play.
bool FreezeKeeper::accept(const Wish& wish, Outcome outcome)
{
    lastProblem = std::move(outcome.problem);
    if (wish.render != nullptr && lastProblem)
        return false; // what played goes on
    choice = std::move(outcome.choice);
    loaded = std::move(outcome.take);
    if (wish.rate != rate)
        reload(); // the host has changed it meanwhile
    return true;
}

void FreezeKeeper::settle() const
{
    std::unique_lock lock(mutex);
    settled.wait(lock, [this] { return !works; });
}

bool FreezeKeeper::isFrozen() const
{
    const std::lock_guard lock(mutex);
    return !choice.id.empty();
}

bool FreezeKeeper::isWorking() const
{
    const std::lock_guard lock(mutex);
    return works;
}

std::shared_ptr<const FrozenTake> FreezeKeeper::take(int hostRate) const
{
    const std::lock_guard lock(mutex);
    return loaded != nullptr && loaded->rate == hostRate ? loaded : nullptr;
}

std::optional<Problem> FreezeKeeper::problem() const
{
    const std::lock_guard lock(mutex);
    return lastProblem;
}

void FreezeKeeper::acknowledge()
{
    const std::lock_guard lock(mutex);
    if (choice.id.empty() || loaded != nullptr)
        lastProblem.reset();
}

std::unique_ptr<juce::XmlElement> FreezeKeeper::toXml() const
{
    const std::lock_guard lock(mutex);
    if (choice.id.empty())
        return nullptr;
    auto xml = std::make_unique<juce::XmlElement>("FROZEN");
    xml->setAttribute("id", juce::String(choice.id));
    xml->setAttribute("folder", juce::String::fromUTF8(choice.folder.string().c_str()));
    return xml;
}

void FreezeKeeper::fromXml(const juce::XmlElement* xml)
{
    choose(xml == nullptr
               ? Choice{}
               : Choice{xml->getStringAttribute("id").toStdString(), xml->getStringAttribute("folder").toStdString()});
}

/// Whatever is under way is given up.
void FreezeKeeper::choose(Choice wanted)
{
    bool isOther = false;
    {
        const std::lock_guard lock(mutex);
        isOther = !choice.id.empty() || !wanted.id.empty();
        next.reset();
        ++generation;
        lastProblem.reset();
        choice = std::move(wanted);
        reload();
    }
    if (isOther)
        changed();
}
} // namespace demon
