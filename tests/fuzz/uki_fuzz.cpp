#include "trust/uki.hpp"

/** A boot image of any content is refused or measured. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::trust;
    try
    {
        const Uki uki = Uki::parse({data, size}, "image");
        static_cast<void>(uki.pcr11());
        static_cast<void>(uki.digests());
    }
    catch (const Refused&)
    {}
    return 0;
}
