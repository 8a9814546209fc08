// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once

/// Marks a function that must never block: no allocation, lock, system call or unbounded loop. clang 20 and newer check
/// it at run time (RealtimeSanitizer) and partly at compile time; other compilers read it as a comment.
#if defined(__has_cpp_attribute)
#if __has_cpp_attribute(clang::nonblocking)
#define DEMON_NONBLOCKING [[clang::nonblocking]]
#endif
#endif
#ifndef DEMON_NONBLOCKING
#define DEMON_NONBLOCKING
#endif
