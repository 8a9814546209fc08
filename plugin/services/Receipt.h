// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "demon/messages.h"

namespace demon
{
/// The engine behind a render, as far as the link knows it. `libraries` and `processor` are empty where it does not.
struct EngineFacts
{
    std::string demon; ///< version of the engine
    std::int64_t protocol = kProtocolVersion;
    std::string checkpoint, checkpointSha256, backend, libraries, processor;
    std::vector<std::string> lanes; ///< ids of those that the engine acts on, as in its welcome

    bool operator==(const EngineFacts& o) const
    {
        return demon == o.demon && protocol == o.protocol && checkpoint == o.checkpoint &&
               checkpointSha256 == o.checkpointSha256 && backend == o.backend && libraries == o.libraries &&
               processor == o.processor && lanes == o.lanes;
    }
};

/// What went into a render and what came out. The fields and their order are those of engine_server/tracks/receipt.py,
/// so that a bounce and `demon render` can be compared line by line; what only the plugin knows stands behind them.
/// Equal receipts of complete renders mean equal bits.
struct Receipt
{
    EngineFacts engine; ///< `lanes` belongs to `lanes` below
    int rate = 48000;
    std::int64_t samples = 0; ///< of the result; whole frames
    Config config;
    std::string sourceSha256, lanesSha256;                  ///< of all that was fed
    std::vector<std::pair<std::string, std::string>> lanes; ///< id, and the value or "low to high"
    std::string resultSha256;

    std::int64_t position = 0;      ///< of the first sample on the timeline
    bool isOffline = false;         ///< a bounce or a commit; else it was played live
    bool isComplete = false;        ///< every frame of the source is there
    std::int64_t missingFrames = 0; ///< silent in the result: they came too late, or not at all
    std::int64_t changes = 0;       ///< of configuration or engine meanwhile; `config` and `engine` are the last ones
};

/// Indented JSON with a line feed at its end, as msgspec writes it.
std::string toJson(const Receipt& receipt);

/// Nothing when `json` is no receipt. Unknown fields are ignored.
std::optional<Receipt> receiptFromJson(std::string_view json);

/// "0.6", or "0.2 to 0.9".
std::string describeRange(float low, float high);
} // namespace demon
