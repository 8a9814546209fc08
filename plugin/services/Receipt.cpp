// SPDX-License-Identifier: AGPL-3.0-or-later
#include "Receipt.h"

#include <cstdio>

#include "Json.h"

namespace demon
{
json::Value json::fromReceipt(const Receipt& receipt)
{
    Value config = Value::object(), lanes = Value::object();
    FieldsToJson fields{config};
    Config::visit(fields, receipt.config);
    for (const auto& [id, text] : receipt.lanes)
        lanes[id] = text;
    return {{"demon", receipt.engine.demon},
            {"protocol", receipt.engine.protocol},
            {"checkpoint", receipt.engine.checkpoint},
            {"checkpoint_sha256", receipt.engine.checkpointSha256},
            {"backend", receipt.engine.backend},
            {"libraries", receipt.engine.libraries},
            {"processor", receipt.engine.processor},
            {"rate", receipt.rate},
            {"samples", receipt.samples},
            {"config", config},
            {"source_sha256", receipt.sourceSha256},
            {"lanes_sha256", receipt.lanesSha256},
            {"lanes", lanes},
            {"result_sha256", receipt.resultSha256},
            {"position", receipt.position},
            {"offline", receipt.isOffline},
            {"complete", receipt.isComplete},
            {"missing_frames", receipt.missingFrames},
            {"changes", receipt.changes}};
}

std::optional<Receipt> json::toReceipt(const Value& value)
{
    if (!value.is_object() || !value.contains("result_sha256"))
        return std::nullopt;
    Receipt receipt;
    receipt.engine.demon = textOf(value, "demon");
    receipt.engine.protocol = integerOf(value, "protocol");
    receipt.engine.checkpoint = textOf(value, "checkpoint");
    receipt.engine.checkpointSha256 = textOf(value, "checkpoint_sha256");
    receipt.engine.backend = textOf(value, "backend");
    receipt.engine.libraries = textOf(value, "libraries");
    receipt.engine.processor = textOf(value, "processor");
    receipt.rate = static_cast<int>(integerOf(value, "rate"));
    receipt.samples = integerOf(value, "samples");
    receipt.sourceSha256 = textOf(value, "source_sha256");
    receipt.lanesSha256 = textOf(value, "lanes_sha256");
    receipt.resultSha256 = textOf(value, "result_sha256");
    receipt.position = integerOf(value, "position");
    receipt.isOffline = boolOf(value, "offline");
    receipt.isComplete = boolOf(value, "complete", true); // those of `demon render` always are
    receipt.missingFrames = integerOf(value, "missing_frames");
    receipt.changes = integerOf(value, "changes");
    if (const auto config = value.find("config"); config != value.end() && config->is_object())
    {
        FieldsFromJson fields{*config};
        Config::visit(fields, receipt.config);
    }
    if (const auto lanes = value.find("lanes"); lanes != value.end() && lanes->is_object())
        for (const auto& [id, text] : lanes->items())
        {
            receipt.engine.lanes.push_back(id);
            receipt.lanes.emplace_back(id, text.is_string() ? text.get<std::string>() : std::string());
        }
    return receipt;
}

std::string toJson(const Receipt& receipt) { return json::write(json::fromReceipt(receipt)); }

std::optional<Receipt> receiptFromJson(std::string_view text)
{
    const auto value = json::readObject(text);
    return value ? json::toReceipt(*value) : std::nullopt;
}

std::string describeRange(float low, float high)
{
    char text[64];
    if (low == high)
        std::snprintf(text, sizeof text, "%g", static_cast<double>(low));
    else
        std::snprintf(text, sizeof text, "%g to %g", static_cast<double>(low), static_cast<double>(high));
    return text;
}
} // namespace demon
