#include "trust/event_log.hpp"

#include "trust/wire.hpp"

#include <algorithm>
#include <optional>

namespace airlock::trust
{

namespace
{

constexpr std::uint32_t noAction = 3;
constexpr std::uint32_t noPcr = 0xffffffff;
constexpr std::size_t maxAlgorithms = 16;
constexpr std::size_t maxDigest = 64;
constexpr std::size_t sha1Size = 20;
constexpr std::string_view specSignature("Spec ID Event03\0", 16);
constexpr std::string_view localitySignature("StartupLocality\0", 16);

/** The log is little-endian, unlike all else of the TPM. */
template <typename T>
T le(ByteReader& in)
{
    T value = 0;
    ByteView bytes = in.take(sizeof(T));
    for (std::size_t i = 0; i < sizeof(T); ++i)
    {
        value = static_cast<T>(value | (static_cast<T>(bytes[i]) << (8 * i)));
    }
    return value;
}

bool startsWith(ByteView data, std::string_view text)
{
    return data.size() >= text.size() &&
           std::equal(text.begin(), text.end(), data.begin(),
                      [](char a, std::uint8_t b) {
                          return static_cast<std::uint8_t>(a) == b;
                      });
}

struct Algorithm
{
    std::uint16_t id = 0;
    std::uint16_t size = 0;
};
using Algorithms = std::vector<Algorithm>;

/** What the header says of the digests of each event. */
Algorithms parseSpec(ByteView data, const std::string& where)
{
    ByteReader in(data, where);
    if (!startsWith(data, specSignature))
    {
        throw Refused(where, "the log is not crypto agile: it has SHA-1 only");
    }
    in.take(specSignature.size() + 8); // platform, versions, size of UINTN
    const auto count = le<std::uint32_t>(in);
    if (count == 0 || count > maxAlgorithms)
    {
        throw Refused(where, std::to_string(count) + " hash algorithms");
    }
    Algorithms out;
    for (std::uint32_t i = 0; i < count; ++i)
    {
        const auto id = le<std::uint16_t>(in);
        const auto size = le<std::uint16_t>(in);
        if (size == 0 || size > maxDigest)
        {
            throw Refused(where,
                          "a digest of " + std::to_string(size) + " bytes");
        }
        const bool twice =
            std::any_of(out.begin(), out.end(),
                        [&](const Algorithm& a) { return a.id == id; });
        if (twice || (id == wire::algSha256 && size != Digest{}.size()))
        {
            throw Refused(where, "the hash algorithms contradict each other");
        }
        out.push_back({id, size});
    }
    return out;
}

/** The SHA-256 among an event's digests. */
Digest readDigests(ByteReader& in, const Algorithms& algorithms,
                   const std::string& where)
{
    const auto count = le<std::uint32_t>(in);
    if (count > algorithms.size())
    {
        throw Refused(where, std::to_string(count) + " digests, the header "
                                                     "has fewer algorithms");
    }
    std::optional<Digest> out;
    for (std::uint32_t i = 0; i < count; ++i)
    {
        const auto id = le<std::uint16_t>(in);
        auto known =
            std::find_if(algorithms.begin(), algorithms.end(),
                         [&](const Algorithm& a) { return a.id == id; });
        if (known == algorithms.end())
        {
            throw Refused(where, "a digest of an algorithm that the header "
                                 "does not have");
        }
        ByteView digest = in.take(known->size);
        if (id == wire::algSha256)
        {
            if (out)
            {
                throw Refused(where, "two SHA-256 digests");
            }
            out.emplace();
            std::copy(digest.begin(), digest.end(), out->begin());
        }
    }
    if (!out)
    {
        throw Refused(where, "there is no SHA-256 digest");
    }
    return *out;
}

Bytes readData(ByteReader& in)
{
    const auto size = le<std::uint32_t>(in);
    return copyOf(in.take(size)); // bounded by what is left
}

Event readEvent(ByteReader& in, const Algorithms& algorithms,
                const std::string& where)
{
    Event out;
    const auto pcr = le<std::uint32_t>(in);
    out.type = le<std::uint32_t>(in);
    out.measured = out.type != noAction;
    if (pcr >= pcrCount && (out.measured || pcr != noPcr))
    {
        throw Refused(where, "PCR " + std::to_string(pcr));
    }
    out.pcr = pcr == noPcr ? 0 : pcr;
    out.digest = readDigests(in, algorithms, where);
    out.data = readData(in);
    out.dataMatches = out.measured && sha256(out.data) == out.digest;
    return out;
}

} // namespace

EventLog EventLog::parse(ByteView data)
{
    if (data.size() > maxSize)
    {
        throw Refused("event log", "has more than 4 MiB");
    }
    ByteReader in(data, "event log");
    // The first event has the old form, for readers that know nothing else.
    const auto pcr = le<std::uint32_t>(in);
    const auto type = le<std::uint32_t>(in);
    in.take(sha1Size);
    const Bytes spec = readData(in);
    if (pcr != 0 || type != noAction)
    {
        throw Refused("event log", "the log is not crypto agile: it has no "
                                   "header");
    }
    const Algorithms algorithms = parseSpec(spec, "event log header");
    EventLog out;
    while (!in.atEnd())
    {
        const std::string where =
            "event " + std::to_string(out.events_.size() + 1);
        if (out.events_.size() == maxEvents)
        {
            throw Refused("event log", "has more than 16384 events");
        }
        Event event = readEvent(in, algorithms, where);
        if (!event.measured && event.pcr == 0 &&
            startsWith(event.data, localitySignature) &&
            event.data.size() == localitySignature.size() + 1)
        {
            out.startupLocality_ = event.data.back();
        }
        out.events_.push_back(std::move(event));
    }
    return out;
}

PcrValues EventLog::replay() const
{
    PcrValues out;
    for (const Event& event : events_)
    {
        if (!event.measured)
        {
            continue;
        }
        auto [pcr, first] = out.try_emplace(event.pcr, Digest{});
        if (first && event.pcr == 0)
        {
            pcr->second.back() = startupLocality_;
        }
        else if (first && event.pcr > 16 && event.pcr < 23)
        {
            pcr->second.fill(0xff);
        }
        pcr->second = extended(pcr->second, event.digest);
    }
    return out;
}

} // namespace airlock::trust
