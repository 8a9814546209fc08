// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

/// Counts what operator new and delete are asked for, on the thread that wants to know. The program that links
/// AllocationCount.cpp has both replaced.
namespace allocation_count
{
void start() noexcept;
int stop() noexcept; ///< calls since start
} // namespace allocation_count
