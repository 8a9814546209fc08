// SPDX-License-Identifier: AGPL-3.0-or-later
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN // version 3 brings its own main
#include <catch2/catch.hpp>
#endif
