// SPDX-License-Identifier: AGPL-3.0-or-later
#pragma once
#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace demon
{
/// Tells a preloaded checker (tests preload a library that exports rtcheck_enter and rtcheck_leave) that this thread is
/// on the real-time path for the object's lifetime. Without one it does nothing.
class RealtimeSection
{
public:
    RealtimeSection() noexcept
    {
        if (hooks.leave != nullptr)
            hooks.enter();
    }
    ~RealtimeSection()
    {
        if (hooks.leave != nullptr)
            hooks.leave();
    }
    RealtimeSection(const RealtimeSection&) = delete;
    RealtimeSection& operator=(const RealtimeSection&) = delete;

private:
    using Hook = void (*)();
    struct Hooks
    {
        Hook enter = nullptr, leave = nullptr;
    };
    static Hooks findHooks()
    {
#ifdef _WIN32
        return {};
#else
        const auto enter = reinterpret_cast<Hook>(dlsym(RTLD_DEFAULT, "rtcheck_enter"));
        const auto leave = reinterpret_cast<Hook>(dlsym(RTLD_DEFAULT, "rtcheck_leave"));
        return enter != nullptr && leave != nullptr ? Hooks{enter, leave} : Hooks{};
#endif
    }
    inline static const Hooks hooks = findHooks(); // when the plugin is loaded, never on the audio thread
};
} // namespace demon
