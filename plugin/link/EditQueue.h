// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "LinkTimes.h"
#include "core/LaneTable.h"
#include "demon/messages.h"

namespace demon
{
/// Changes of a loop's lanes on their way to the engine: one message in flight, what comes meanwhile is joined, and a
/// lane that costs the engine something is sent less often. However fast a host automates, the link carries at most
/// one message per round trip. Link thread only.
class EditQueue
{
public:
    /// How often the lanes may be sent, by the engine's word for their cost: `ids[i]` costs `costs[i]`.
    void setCosts(const std::vector<std::string>& ids, const std::vector<std::string>& costs)
    {
        interval.fill(0);
        const std::vector<std::string> columns = wireLaneIds();
        for (std::size_t i = 0; i < std::min(ids.size(), costs.size()); ++i)
        {
            const auto column = std::find(columns.begin(), columns.end(), ids[i]);
            if (column != columns.end())
                interval[static_cast<std::size_t>(column - columns.begin())] = intervalOf(costs[i]);
        }
    }

    /// Nothing is to be sent: the engine is about to be fed what the edits led to.
    void clear()
    {
        for (auto& edits : waiting)
            edits.clear();
        inFlight = {};
        nextAt.fill(0);
    }

    /// An edit supersedes those before it that it covers. One without frames is of no interest to the engine.
    void push(const LaneEdit& edit)
    {
        if (edit.first >= edit.end)
            return;
        auto& edits = waiting[static_cast<std::size_t>(edit.column)];
        edits.erase(std::remove_if(edits.begin(), edits.end(),
                                   [&](const LaneEdit& old) { return old.first >= edit.first && old.end <= edit.end; }),
                    edits.end());
        if (!edits.empty() && edits.back().end == edit.first && edits.back().value == edit.value)
            edits.back().end = edit.end;
        else
            edits.push_back(edit);
    }

    bool isEmpty() const
    {
        return inFlight.edits.empty() &&
               std::all_of(waiting.begin(), waiting.end(), [](const auto& edits) { return edits.empty(); });
    }

    /// The engine has taken everything up to `revision`.
    void acknowledge(std::int64_t revision)
    {
        if (revision == inFlight.revision)
            inFlight.edits.clear();
    }

    /// What is not acknowledged was lost.
    void sendAgain() { sentAt = -kResendAfter; }

    /// The message that is due at `now`, for a clip that begins at `firstFrame`; false when there is none. What has not
    /// been acknowledged in time is sent again: edits say the same twice.
    bool take(std::int64_t epoch, std::int64_t firstFrame, std::int64_t now, Edit& message)
    {
        if (!inFlight.edits.empty() && now - sentAt < kResendAfter)
            return false;
        if (inFlight.edits.empty() && !collect(firstFrame, now))
            return false;
        sentAt = now;
        inFlight.epoch = epoch;
        inFlight.count = static_cast<std::int64_t>(inFlight.edits.size() / 4);
        message = inFlight;
        return true;
    }

private:
    static constexpr std::int64_t kEncodeInterval = 100 * kMillisecond;
    static constexpr std::int64_t kRefitInterval = 250 * kMillisecond;

    static std::int64_t intervalOf(const std::string& cost)
    {
        return cost == "encode" ? kEncodeInterval : cost == "refit" ? kRefitInterval : 0;
    }

    bool collect(std::int64_t firstFrame, std::int64_t now)
    {
        for (std::size_t column = 0; column < kWireLaneCount; ++column)
        {
            auto& edits = waiting[column];
            if (edits.empty() || now < nextAt[column])
                continue;
            const std::size_t room = static_cast<std::size_t>(kMaxEdits) - inFlight.edits.size() / 4;
            const std::size_t count = std::min(room, edits.size());
            for (std::size_t i = 0; i < count; ++i)
                for (const double value :
                     {static_cast<double>(column), static_cast<double>(edits[i].first - firstFrame),
                      static_cast<double>(edits[i].end - firstFrame), static_cast<double>(edits[i].value)})
                    inFlight.edits.push_back(static_cast<float>(value));
            edits.erase(edits.begin(), edits.begin() + static_cast<std::ptrdiff_t>(count));
            nextAt[column] = now + interval[column];
        }
        if (inFlight.edits.empty())
            return false;
        ++inFlight.revision;
        return true;
    }

    std::array<std::vector<LaneEdit>, kWireLaneCount> waiting;
    std::array<std::int64_t, kWireLaneCount> interval{}, nextAt{};
    Edit inFlight{1, 0, 0, {}}; ///< with edits: sent, not yet acknowledged
    std::int64_t sentAt = 0;
};
} // namespace demon
