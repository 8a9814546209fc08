// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
// Catch2 version 3 or, on older systems, 2.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
