#include "stream_mutator.hpp"

#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "tests/unit/recorded_guest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace airlock::test
{

namespace
{

// The framing: devmodel/handover/format.hpp.
constexpr std::size_t fileHeader = 8;
constexpr std::size_t footer = 5;

std::size_t headerSize(const handover::SectionId& id)
{
    return 1 + 4 + 1 + id.idstr.size() + 4 + 4;
}

std::ptrdiff_t signedOffset(std::size_t offset)
{
    return static_cast<std::ptrdiff_t>(offset);
}

} // namespace

StreamMutator::StreamMutator(Bytes stream, std::uint64_t seed)
    : stream_(std::move(stream)), random_(seed)
{
    const auto parsed =
        handover::parseProductionStream(stream_, handover::sectionSize);
    std::size_t at = fileHeader + 5 + parsed.machine.size();
    for (const handover::Section& section : parsed.sections)
    {
        const std::size_t payload = at + headerSize(section.id);
        places_.push_back({section.id, at, payload, section.payload.size(),
                           worthChanging(section.payload)});
        at = payload + section.payload.size() + footer;
    }
}

const StreamMutator::Place& StreamMutator::anySection()
{
    return places_[below(places_.size())];
}

std::size_t StreamMutator::position(std::string& name)
{
    constexpr std::size_t near = 1024;
    const Place& place = anySection();
    std::size_t at = below(place.size);
    if (below(8) != 0)
    {
        const std::size_t start = place.starts[below(place.starts.size())];
        at = (start + below(near)) % place.size;
    }
    name += fmt::format(" {}+{}", handover::label(place.id), at);
    return place.payload + at;
}

Mutation StreamMutator::flipBits()
{
    Mutation out{"bits flipped:", stream_};
    for (std::uint64_t n = 1 + below(4); n > 0; --n)
    {
        out.stream[position(out.what)] ^=
            static_cast<std::uint8_t>(1U << below(8));
    }
    return out;
}

Mutation StreamMutator::setNumber()
{
    constexpr std::array<std::uint64_t, 12> edges{
        0,          1,          0x7f,       0xff,       0x8000,     0xffff,
        0x7fffffff, 0x80000000, 0xfee00000, 0xffffffff, 1ULL << 63, ~0ULL};
    Mutation out{"number set:", stream_};
    for (std::uint64_t n = 1 + below(2); n > 0; --n)
    {
        const std::size_t at = position(out.what);
        const std::size_t width = 1ULL << below(4);
        const std::uint64_t value =
            below(3) == 0 ? random_() : edges[below(edges.size())];
        for (std::size_t i = 0; i < width && at + i < stream_.size(); ++i)
        {
            out.stream[at + i] =
                static_cast<std::uint8_t>(value >> (8 * (width - 1 - i)));
        }
    }
    return out;
}

Mutation StreamMutator::cut()
{
    const std::size_t size = below(stream_.size());
    return {fmt::format("cut to {} bytes", size),
            Bytes(stream_.begin(), stream_.begin() + signedOffset(size))};
}

Mutation StreamMutator::lose()
{
    Mutation out{"bytes lost:", stream_};
    const std::size_t at = position(out.what);
    const std::size_t size = std::min(1 + below(64), stream_.size() - at);
    const auto from = out.stream.begin() + signedOffset(at);
    out.stream.erase(from, from + signedOffset(size));
    return out;
}

Mutation StreamMutator::insert()
{
    Mutation out{"bytes inserted:", stream_};
    const std::size_t at = position(out.what);
    const Bytes extra(1 + below(64), static_cast<std::uint8_t>(random_()));
    out.stream.insert(out.stream.begin() + signedOffset(at), extra.begin(),
                      extra.end());
    return out;
}

/** One that QEMU knows and this state lacks, with any contents. */
Mutation StreamMutator::addSubsection()
{
    struct Known
    {
        const char* section;
        const char* name;
        std::size_t size;
    };
    constexpr std::array<Known, 20> list{{
        {"virtio", "virtio/ringsize", 4096},
        {"virtio", "virtio/broken", 1},
        {"virtio", "virtio/device_endian", 1},
        {"virtio", "virtio/disabled", 1},
        {"virtio", "virtio/started", 1},
        {"virtio", "virtio/packed_virtqueues", 10240},
        {"virtio", "virtio-net-device/rss", 60},
        {"virtio", "virtio-net-device/backend", 16},
        {"apic", "apic_sipi", 8},
        {"cpu", "cpu/exception_info", 10},
        {"cpu", "cpu/poll_control_msr", 8},
        {"cpu", "cpu/msr_tscdeadline", 8},
        {"cpu", "cpu/svm_guest", 4},
        {"cpu", "cpu/nested_state", 256},
        {"cpu", "cpu/xss", 8},
        {"cpu", "cpu/triple_fault", 1},
        {"cpu_common", "cpu_common/exception_index", 4},
        {"cpu_common", "cpu_common/crash_occurred", 1},
        {"timer", "timer/icount", 16},
        {"timer", "timer/icount/warp_timer", 16},
    }};
    const Known& known = list[below(list.size())];
    const Place* place = &anySection();
    while (!handover::vmstateName(place->id.idstr).starts_with(known.section))
    {
        place = &anySection();
    }
    const std::string_view name = known.name;
    ByteWriter extra;
    extra.u8(0x05);
    extra.u8(static_cast<std::uint8_t>(name.size()));
    extra.text(name);
    extra.be32(below(8) == 0 ? static_cast<std::uint32_t>(random_()) : 1);
    const bool any = below(2) == 0;
    for (std::size_t i = 0; i < known.size; ++i)
    {
        extra.u8(static_cast<std::uint8_t>(any ? random_() : i % 4 == 3));
    }
    Mutation out{fmt::format("subsection {} added to {}", name,
                             handover::label(place->id)),
                 stream_};
    out.stream.insert(out.stream.begin() +
                          signedOffset(place->payload + place->size),
                      extra.data().begin(), extra.data().end());
    return out;
}

/** One section's bytes, with header and footer, put where another is. */
Mutation StreamMutator::moveSections()
{
    const Place& from = anySection();
    const Place& to = anySection();
    const auto bytesOf = [&](const Place& place) {
        const auto start = stream_.begin() + signedOffset(place.header);
        return Bytes(start, start + signedOffset(place.payload - place.header +
                                                 place.size + footer));
    };
    Mutation out{fmt::format("section {} put before {}",
                             handover::label(from.id), handover::label(to.id)),
                 stream_};
    const Bytes moved = bytesOf(from);
    out.stream.insert(out.stream.begin() + signedOffset(to.header),
                      moved.begin(), moved.end());
    if (below(2) == 0)
    {
        out.what += ", and taken away";
        const std::size_t old =
            from.header + (to.header <= from.header ? moved.size() : 0);
        const auto start = out.stream.begin() + signedOffset(old);
        out.stream.erase(start, start + signedOffset(moved.size()));
    }
    return out;
}

Mutation StreamMutator::next()
{
    while (true)
    {
        Mutation out;
        switch (below(16))
        {
        case 0:
            out = cut();
            break;
        case 1:
            out = lose();
            break;
        case 2:
            out = insert();
            break;
        case 3:
            out = moveSections();
            break;
        case 4:
            out = addSubsection();
            break;
        case 5:
        case 6:
        case 7:
        case 8:
            out = flipBits();
            break;
        default:
            out = setNumber();
        }
        if (out.stream != stream_)
        {
            return out;
        }
    }
}

} // namespace airlock::test
