#include "devmodel/handover/reduce.hpp"
#include "devmodel/handover/stream.hpp"
#include "devmodel/handover/vmdesc.hpp"

#include <algorithm>
#include <cstdlib>

/** Everything that reads a stream from a boot host, up to the admission: any
 * bytes may be refused, none may crash it, and what it accepts it must write
 * back the same. */
namespace
{

using namespace airlock;
using namespace airlock::handover;

void require(bool holds)
{
    if (!holds)
    {
        std::abort();
    }
}

template <typename F>
void allowRefusal(F&& f)
{
    try
    {
        f();
    }
    catch (const Refused&)
    {}
}

/** Field spans are adjacent and end where the payload does. */
void checkLayout(const DeviceDesc& device, const Section& section)
{
    std::size_t end = 0;
    for (const FieldSpan& span : layOut(device, section.payload))
    {
        require(span.offset == end);
        end += span.size;
    }
    require(end == section.payload.size());
}

void checkRoundTrip(const std::vector<Section>& sections)
{
    Bytes stream = writeProductionStream("airlock-1.0", sections);
    std::size_t next = 0;
    ProductionStream back =
        parseProductionStream(stream, [&](const SectionId&, ByteView) {
            return sections.at(next++).payload.size();
        });
    require(std::equal(back.sections.begin(), back.sections.end(),
                       sections.begin(), sections.end(),
                       [](const Section& a, const Section& b) {
                           return a.id == b.id && a.payload == b.payload;
                       }));
}

void fuzzBootStream(ByteView input)
{
    BootStream stream = parseBootStream(input);
    require(stream.sections.size() == stream.description.devices.size());
    for (std::size_t i = 0; i < stream.sections.size(); ++i)
    {
        allowRefusal([&] {
            checkLayout(stream.description.devices[i], stream.sections[i]);
        });
    }
    Reduced reduced = reduce(std::move(stream.sections));
    if (reduced.keptBytes() < (1U << 20))
    {
        checkRoundTrip(reduced.kept);
    }
}

/** Section sizes come from the input, as a wrong schema would have it. */
void fuzzProductionStream(ByteView input)
{
    ProductionStream stream =
        parseProductionStream(input, [](const SectionId&, ByteView rest) {
            return ByteReader(rest, "size").be16();
        });
    Bytes again = writeProductionStream(stream.machine, stream.sections);
    require(std::equal(again.begin(), again.end(), input.begin(), input.end()));
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    ByteView input(data, size);
    allowRefusal([&] { fuzzBootStream(input); });
    allowRefusal([&] { fuzzProductionStream(input); });
    allowRefusal([&] { parseVmDesc(asText({data, size})); });
    return 0;
}
