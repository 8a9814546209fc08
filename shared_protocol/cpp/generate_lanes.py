# SPDX-License-Identifier: Apache-2.0
"""Write demon/lanes.h, a constexpr table, from lanes.toml.

    python generate_lanes.py lanes.toml build/demon/lanes.h

Checks every row on the way: an id or a range that the wire cannot carry stops the build here.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ENUMS = {
    "class": {"step": "LaneClass::step", "submission": "LaneClass::submission", "output": "LaneClass::output"},
    "display": {word: f"Display::{word}" for word in ("plain", "percent", "factor", "decibel", "count")},
    "resolution": {"frame": "Resolution::frame", "hop": "Resolution::hop", "block": "Resolution::block"},
}

HEADER = """// SPDX-License-Identifier: Apache-2.0
// Generated from lanes.toml by generate_lanes.py: do not edit.
#pragma once
#include <array>
#include <cstddef>

namespace demon
{{
/// When the engine (or, for `output`, the plugin) reads a lane. \\see lanes.toml
enum class LaneClass {{ step, submission, output }};

/// The grid on which a lane is read. \\see lanes.toml
enum class Resolution {{ frame, hop, block }};

/// How a value is written. \\see lanes.toml
enum class Display {{ plain, percent, factor, decibel, count }};

/// One row of lanes.toml. `min`, `max` and `defaultValue` are plain values in `unit`.
struct LaneInfo
{{
    const char* id;
    const char* name;
    const char* unit;
    float min, max, defaultValue, skew;
    LaneClass laneClass;
    Resolution resolution;
    const char* actsOn;
    const char* help;
    Display display;
    const char* group;
}};

/// Every lane, in the order of the table, which is also the order of the plugin's parameters.
inline constexpr std::array<LaneInfo, {count}> kLanes = {{{{
{rows}
}}}};

inline constexpr std::size_t kLaneCount = kLanes.size();

/// Index of each lane in kLanes.
namespace lane
{{
{indices}
}} // namespace lane
}} // namespace demon
"""


def check(row: dict[str, Any]) -> None:
    """Raise ValueError, naming the lane and the field, unless `row` can be carried on the wire."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", row["id"]):
        raise ValueError(f"lane {row['id']!r}: id must match [a-z][a-z0-9_]*, at most 32 bytes")
    if not row["min"] <= row["default"] <= row["max"] or row["min"] >= row["max"] or row["skew"] <= 0:
        raise ValueError(f"lane {row['id']!r}: need min <= default <= max, min < max and skew > 0")
    for field, names in ENUMS.items():
        if row[field] not in names:
            raise ValueError(f"lane {row['id']!r}: {field} must be one of {sorted(names)}")


def real(value: float) -> str:
    return f"{float(value)!r}f"


def table_row(row: dict[str, Any]) -> str:
    numbers = ", ".join(real(row[field]) for field in ("min", "max", "default", "skew"))
    enums = ", ".join(ENUMS[field][row[field]] for field in ("class", "resolution"))
    texts = {
        field: json.dumps(row[field], ensure_ascii=True) for field in ("id", "name", "unit", "acts_on", "help", "group")
    }
    return (
        f"    {{{texts['id']}, {texts['name']}, {texts['unit']}, {numbers}, {enums},\n"
        f"     {texts['acts_on']}, {texts['help']},\n"
        f"     {ENUMS['display'][row['display']]}, {texts['group']}}},"
    )


def main(source: str, target: str) -> None:
    rows = tomllib.loads(Path(source).read_text(encoding="utf-8"))["lane"]
    for row in rows:
        check(row)
    if len({row["id"] for row in rows}) != len(rows):
        raise ValueError("lane ids must differ")
    text = HEADER.format(
        count=len(rows),
        rows="\n".join(map(table_row, rows)),
        indices="\n".join(f"inline constexpr std::size_t {row['id']} = {index};" for index, row in enumerate(rows)),
    )
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
