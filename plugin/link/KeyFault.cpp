// SPDX-License-Identifier: AGPL-3.0-or-later
#include "KeyFault.h"

#include "services/EngineKeys.h"

namespace demon
{
std::string explain(KeyFault fault, const std::string& address)
{
    const std::string folder = engineKeysFolder().string();
    switch (fault)
    {
    case KeyFault::refused:
        return "the engine at " + address +
               " does not accept this key: ask whoever runs it for `demon keys allow`, or for a new file "
               "(`demon keys new`)";
    case KeyFault::otherEngine:
        return "the engine at " + address + " is not the one whose key is in the file in " + folder +
               ": ask whoever runs it for a new file (`demon keys new`)";
    case KeyFault::missing:
        break;
    case KeyFault::unwanted:
        return "the engine at " + address +
               " takes no keys, and nothing was said to it: if that is right, move the file that names it out of " +
               folder;
    }
    return "no key for " + address + ": `demon keys new` on the engine's machine makes a file for " + folder;
}
} // namespace demon
