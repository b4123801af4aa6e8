#include "trust/machine.hpp"

#include <cstdlib>

/** A credential of any content is refused or read; what was read is written
 * back the same. With '#' in front: what a machine says at enrolment, with 'P'
 * the public area of its endorsement key. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::trust;
    const ByteView all(data, size);
    try
    {
        if (size > 0 && data[0] == '#')
        {
            const std::string_view text(reinterpret_cast<const char*>(data) + 1,
                                        size - 1);
            const Json document = parseJson(text, "machine", {1U << 16, 8});
            const Machine machine =
                Machine::parse(JsonField(document, "machine"));
            const Candidate candidate(machine,
                                      {"", {sha256(machine.endorsement)}});
            static_cast<void>(candidate.credential().marshal());
            return 0;
        }
        if (size > 0 && data[0] == 'P')
        {
            const ByteView area = all.subspan(1);
            const Bytes again = parentKey(area, "key").marshal();
            if (!equalConstantTime(again, area))
            {
                std::abort();
            }
            return 0;
        }
        const Bytes again = Credential::parse(all, "credential").marshal();
        if (!equalConstantTime(again, all))
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
