// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <map>
#include <variant>
#include <vector>

#include "demon/messages.h"
#include "demon/timebase.h"

/// Mode loop of the small engine (FakeEngine.h): makes takes of clips and commits of them, each frame the negative of
/// what was fed. No lane changes that, but as in a real engine an edit or a configuration asks for a further take, and
/// once it is made the loop rests. What is sent is not sent again: the tests' connections lose nothing.
class FakeLoop
{
public:
    static constexpr std::int64_t kClipLimit = 6000;
    static constexpr std::int64_t kWindow = 25; ///< frames
    static constexpr std::int64_t kEverything = std::numeric_limits<std::int64_t>::max();

    using Messages = std::vector<demon::Message>;

    FakeLoop(int rate, std::size_t lanesOfHello) : grid(demon::FrameGrid::forRate(rate)), laneCount(lanesOfHello) {}

    Messages answer(const demon::Message& message)
    {
        return std::visit([this](const auto& m) { return on(m); }, message);
    }
    std::int64_t framesTaken() const { return taken; }

    /// The next window of every clip, as far as it begins before frame `heldFrom`.
    Messages tick(std::int64_t heldFrom)
    {
        Messages windows;
        for (auto& [epoch, clip] : clips)
            if (clip.isWhole)
                clip.isCommit ? commit(epoch, clip, heldFrom, windows) : play(epoch, clip, heldFrom, windows);
        return windows;
    }

private:
    struct Clip
    {
        bool isCommit = false, isWhole = false;
        std::int64_t first = 0, expected = 0, wanted = 0;
        std::int64_t deliverFrom = 0;             ///< of a commit: the next frame to send
        std::int64_t take = 0;                    ///< of a loop: the newest
        std::vector<std::int64_t> sentTakes;      ///< of a loop: of each window, the one that was sent last
        std::array<std::vector<float>, 2> result; ///< of each channel, from the clip's first frame on
        std::int64_t frames() const { return expected - first; }
    };

    Messages on(const demon::Begin& m)
    {
        if (m.kind == "stream" || m.feedFrom != grid.frameOf(m.start) || m.deliverFrom < m.feedFrom)
            return refuse(demon::error::field, "a clip is fed from the frame of its start", m.epoch);
        if (m.epoch <= newest)
            return refuse(demon::error::epoch, "epochs increase", m.epoch);
        newest = m.epoch;
        Clip& clip = clips[m.epoch];
        clip.isCommit = m.kind == "commit";
        clip.first = clip.expected = clip.wanted = m.feedFrom;
        clip.deliverFrom = m.deliverFrom;
        return {};
    }

    Messages on(const demon::Feed& m)
    {
        Clip* const clip = find(m.epoch);
        if (clip == nullptr || (clip->isWhole && m.frame >= clip->expected))
            return refuse(demon::error::epoch, "no such epoch", m.epoch);
        if (m.frame > clip->expected)
            return refuse(demon::error::feedGap, "gap", m.epoch);
        if (m.frame < clip->expected)
            return {};
        if (m.frame + m.count - clip->first > kClipLimit)
            return dropFor("the clip is too long", m.epoch);
        const auto samples = static_cast<std::ptrdiff_t>(m.count * grid.length);
        for (std::size_t channel = 0; channel < 2; ++channel)
            std::transform(m.audio.begin() + static_cast<std::ptrdiff_t>(channel) * samples,
                           m.audio.begin() + static_cast<std::ptrdiff_t>(channel + 1) * samples,
                           std::back_inserter(clip->result[channel]), [](float value) { return -value; });
        clip->expected += m.count;
        taken += m.count;
        return {};
    }

    Messages on(const demon::End& m)
    {
        Clip* const clip = find(m.epoch);
        if (clip == nullptr)
            return refuse(demon::error::epoch, "no such epoch", m.epoch);
        if (m.frame > clip->expected)
            return refuse(demon::error::feedGap, "gap", m.epoch);
        if (m.frame == clip->first)
            return dropFor("the clip is empty", m.epoch);
        if (clip->isWhole)
            return {}; // a repeat
        clip->isWhole = true;
        clip->take = 1;
        clip->sentTakes.assign(static_cast<std::size_t>((clip->frames() + kWindow - 1) / kWindow), 0);
        return {};
    }

    Messages on(const demon::Edit& m)
    {
        Clip* const clip = find(m.epoch);
        if (clip == nullptr || clip->isCommit)
            return refuse(demon::error::epoch, "no such loop", m.epoch);
        for (std::size_t i = 0; i < m.edits.size(); i += 4)
            if (!isEditOf(*clip, m.edits.data() + i))
                return refuse(demon::error::field, "an edit lies outside", m.epoch);
        again(*clip);
        return {demon::Edited{m.epoch, m.revision}};
    }

    Messages on(const demon::Configure& m)
    {
        for (auto& [epoch, clip] : clips)
            again(clip);
        return {demon::Configured{m.revision}};
    }
    Messages on(const demon::Drop& m)
    {
        clips.erase(m.epoch);
        return {};
    }
    Messages on(const demon::Ping& m)
    {
        if (Clip* const clip = find(m.epoch))
            clip->wanted = m.wanted;
        demon::Pong pong;
        pong.number = m.number;
        for (const auto& [epoch, clip] : clips)
        {
            pong.epochs.push_back(epoch);
            pong.expected.push_back(clip.expected);
        }
        return {pong};
    }
    template <class Other> Messages on(const Other&) { return {}; }

    static Messages refuse(const char* code, const char* text, std::int64_t epoch)
    {
        return {demon::Error{code, text, epoch}};
    }
    Messages dropFor(const char* text, std::int64_t epoch)
    {
        clips.erase(epoch);
        return refuse(demon::error::clip, text, epoch);
    }
    Clip* find(std::int64_t epoch)
    {
        const auto found = clips.find(epoch);
        return found != clips.end() ? &found->second : nullptr;
    }
    bool isEditOf(const Clip& clip, const float* edit) const
    {
        const bool isWhole = std::all_of(edit, edit + 3, [](float value) { return value == std::floor(value); });
        return isWhole && edit[0] >= 0.0f && edit[0] < static_cast<float>(laneCount) && edit[1] >= 0.0f &&
               edit[1] < edit[2] && edit[2] <= static_cast<float>(clip.frames());
    }
    static void again(Clip& clip) { clip.take += clip.isWhole ? 1 : 0; }

    /// In cyclic order from the frame that sounds; of each window the newest take, once.
    void play(std::int64_t epoch, Clip& clip, std::int64_t heldFrom, Messages& windows) const
    {
        const bool isInside = clip.wanted >= clip.first && clip.wanted < clip.expected;
        const std::size_t sounding = isInside ? static_cast<std::size_t>((clip.wanted - clip.first) / kWindow) : 0;
        for (std::size_t i = 0; i < clip.sentTakes.size(); ++i)
        {
            const std::size_t w = (sounding + i) % clip.sentTakes.size();
            const std::int64_t from = clip.first + static_cast<std::int64_t>(w) * kWindow;
            if (clip.sentTakes[w] == clip.take || from >= heldFrom)
                continue;
            clip.sentTakes[w] = clip.take;
            windows.emplace_back(window(epoch, clip, from, clip.take));
            return;
        }
    }

    void commit(std::int64_t epoch, Clip& clip, std::int64_t heldFrom, Messages& windows) const
    {
        if (clip.deliverFrom >= std::min(clip.expected, heldFrom))
            return;
        windows.emplace_back(window(epoch, clip, clip.deliverFrom, 0));
        clip.deliverFrom += std::get<demon::Window>(windows.back()).count;
    }

    /// From `from` to the end of its window in the grid.
    demon::Window window(std::int64_t epoch, const Clip& clip, std::int64_t from, std::int64_t take) const
    {
        const std::int64_t end = std::min(from + kWindow - (from - clip.first) % kWindow, clip.expected);
        demon::Window made{epoch, take, from, end - from, "none", {}};
        for (const std::vector<float>& channel : clip.result)
            made.audio.insert(made.audio.end(), channel.begin() + (from - clip.first) * grid.length,
                              channel.begin() + (end - clip.first) * grid.length);
        return made;
    }

    demon::FrameGrid grid;
    std::size_t laneCount;
    std::int64_t newest = 0; ///< epoch
    std::int64_t taken = 0;  ///< frames
    std::map<std::int64_t, Clip> clips;
};
