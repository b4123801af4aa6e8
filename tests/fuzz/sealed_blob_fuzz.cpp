#include "trust/sealed_blob.hpp"

#include <cstdlib>

/** A sealed blob of any content is refused or read; what was read is written
 * back the same. With '{' in front: a file of signed policies. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::trust;
    const ByteView all(data, size);
    try
    {
        if (size > 0 && data[0] == '{')
        {
            const std::string_view text(reinterpret_cast<const char*>(data),
                                        size);
            for (const SignedPolicy& policy : parsePolicies(text, "policies"))
            {
                const Json once = policy.toJson();
                const JsonField field(once, "policy");
                if (SignedPolicy::parse(field).toJson() != once)
                {
                    std::abort();
                }
                static_cast<void>(signedDigest(policy));
            }
            return 0;
        }
        const SealedBlob blob = SealedBlob::parse(all, "blob");
        if (!equalConstantTime(blob.marshal(), all))
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
