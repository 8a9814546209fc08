// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace demon
{
/// What went wrong: a stable code for logs and tests, and a sentence for the user that says what to do.
struct Problem
{
    std::string code, text;
};

/// A value, or why there is none.
template <class Value> using Result = std::variant<Value, Problem>;

template <class Value> bool hasFailed(const Result<Value>& result) { return std::holds_alternative<Problem>(result); }
} // namespace demon
