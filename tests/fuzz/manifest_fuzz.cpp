#include "devmodel/handover/manifest.hpp"

#include <algorithm>
#include <cstdlib>

/** A manifest and a list of chunk digests of any content are refused or read;
 * what was read is written back the same. The first byte chooses which. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::handover;
    if (size == 0)
    {
        return 0;
    }
    ByteView rest(data + 1, size - 1);
    try
    {
        if (data[0] == '#')
        {
            constexpr std::uint64_t guestBytes = std::uint64_t{1} << 30;
            Bytes again = MemoryDigest::decode(rest, guestBytes).encode();
            if (!std::equal(again.begin(), again.end(), rest.begin(),
                            rest.end()))
            {
                std::abort();
            }
            return 0;
        }
        std::string_view text(reinterpret_cast<const char*>(data), size);
        Manifest manifest = Manifest::parse(text);
        if (!(Manifest::parse(manifest.toJson()) == manifest))
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
