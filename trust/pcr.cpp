#include "trust/pcr.hpp"

#include "trust/wire.hpp"

#include <charconv>

namespace airlock::trust
{

namespace
{

unsigned pcrNumber(std::string_view text, std::string_view where)
{
    unsigned number = 0;
    auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() ||
        number >= pcrCount)
    {
        throw Refused(where, printable(text) + " is no PCR (0 to 23)");
    }
    return number;
}

} // namespace

PcrSelection::PcrSelection(std::initializer_list<unsigned> numbers)
{
    for (unsigned number : numbers)
    {
        add(number);
    }
}

PcrSelection PcrSelection::of(const PcrValues& values)
{
    PcrSelection out;
    for (const auto& [number, value] : values)
    {
        out.add(number);
    }
    return out;
}

PcrSelection PcrSelection::parse(std::string_view text, std::string_view where)
{
    PcrSelection out;
    for (std::size_t at = 0; at <= text.size();)
    {
        const std::size_t end = std::min(text.find(',', at), text.size());
        out.add(pcrNumber(text.substr(at, end - at), where));
        at = end + 1;
    }
    return out;
}

void PcrSelection::add(unsigned number)
{
    if (number >= pcrCount)
    {
        throw Refused("PCR selection",
                      std::to_string(number) + " is no PCR (0 to 23)");
    }
    mask_ |= 1U << number;
}

std::vector<unsigned> PcrSelection::list() const
{
    std::vector<unsigned> out;
    for (unsigned number = 0; number < pcrCount; ++number)
    {
        if (contains(number))
        {
            out.push_back(number);
        }
    }
    return out;
}

std::string PcrSelection::text() const
{
    std::string out;
    for (unsigned number : list())
    {
        out += (out.empty() ? "" : ",") + std::to_string(number);
    }
    return out;
}

Bytes PcrSelection::marshal() const
{
    ByteWriter out;
    out.be32(1);
    out.be16(wire::algSha256);
    out.u8(3);
    for (unsigned byte = 0; byte < 3; ++byte)
    {
        out.u8(static_cast<std::uint8_t>(mask_ >> (8 * byte)));
    }
    return out.release();
}

void PcrSelection::requireSealable(std::string_view where) const
{
    if (empty())
    {
        throw Refused(where, "no PCR is selected");
    }
    for (unsigned number : list())
    {
        if (number > lastStaticPcr)
        {
            throw Refused(where, "PCR " + std::to_string(number) +
                                     " can be reset without a restart; only 0 "
                                     "to 15 hold what they were given");
        }
    }
}

Digest extended(const Digest& pcr, ByteView digest)
{
    Sha256 hash;
    hash.update(pcr);
    hash.update(digest);
    return hash.finish();
}

Digest compositeDigest(const PcrSelection& selection, const PcrValues& values)
{
    Sha256 hash;
    for (unsigned number : selection.list())
    {
        auto value = values.find(number);
        if (value == values.end())
        {
            throw Refused("PCR values",
                          "there is none for PCR " + std::to_string(number));
        }
        hash.update(value->second);
    }
    return hash.finish();
}

std::string differences(const PcrValues& have, const PcrValues& want)
{
    std::string out;
    for (const auto& [number, value] : want)
    {
        auto found = have.find(number);
        if (found != have.end() && found->second == value)
        {
            continue;
        }
        out += (out.empty() ? "PCR " : "; PCR ") + std::to_string(number) +
               ": have " +
               (found == have.end() ? "none" : toHex(found->second)) +
               ", want " + toHex(value);
    }
    return out;
}

Json toJson(const PcrValues& values)
{
    Json out = Json::object();
    for (const auto& [number, value] : values)
    {
        out[std::to_string(number)] = toHex(value);
    }
    return out;
}

PcrValues pcrValuesFrom(const JsonField& field)
{
    if (!field.json().is_object() || field.json().size() > pcrCount)
    {
        field.refuse("is no object of PCR values");
    }
    PcrValues out;
    for (const auto& item : field.json().items())
    {
        const unsigned number = pcrNumber(item.key(), field.path());
        // "4" and "04" are the same PCR.
        if (!out.emplace(number, field.at(item.key()).digest()).second)
        {
            field.refuse("PCR " + std::to_string(number) + " is there twice");
        }
    }
    return out;
}

} // namespace airlock::trust
