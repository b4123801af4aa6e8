#include "bootsrv/capsule/varstore.hpp"

#include <cstdlib>

/** A flash of any content is refused or read; what is added to it is there. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::capsule;
    try
    {
        VariableStore store =
            VariableStore::parse(Bytes(data, data + size), "flash");
        const Guid vendor = {1, 2, 3};
        store.add({"fuzz", vendor, 7, {1, 2, 3}});
        const VariableStore again =
            VariableStore::parse(store.image(), "flash");
        if (!again.find("fuzz", vendor))
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
