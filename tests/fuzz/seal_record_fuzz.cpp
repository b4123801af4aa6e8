#include "bootsrv/machine/seal_store.hpp"

#include <cstdlib>

/** A seal record of any content is refused or read; what was read is written
 * back with the same meaning. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::machine;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try
    {
        const Json json = parseJson(text, "record", {SealStore::slotSize, 16});
        const Json once = SealRecord::parse(JsonField(json, "record")).toJson();
        const Json twice =
            SealRecord::parse(JsonField(once, "record")).toJson();
        if (once != twice)
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
