#pragma once

namespace airlock::machine
{

/** What a boot host in machine mode runs as; each is an image of its own. */
enum class Mode
{
    clean, ///< network, no guest
    dirty, ///< guest, no network
};

} // namespace airlock::machine
