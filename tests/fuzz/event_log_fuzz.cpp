#include "trust/event_log.hpp"

#include <cstdlib>

/** A log of any content is refused or read within its bounds; what it replays
 * to has a value for each PCR that it measures into, and no other. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::trust;
    try
    {
        const EventLog log = EventLog::parse({data, size});
        PcrSelection measured;
        for (const Event& event : log.events())
        {
            if (event.measured)
            {
                measured.add(event.pcr);
            }
        }
        if (log.events().size() > EventLog::maxEvents ||
            !(PcrSelection::of(log.replay()) == measured))
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
