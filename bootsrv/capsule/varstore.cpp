#include "bootsrv/capsule/varstore.hpp"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <memory>

namespace airlock::capsule
{

namespace
{

using machine::Mode;
using machine::parseGuid;

// MdeModulePkg/Include/Guid/VariableFormat.h and the PI specification's
// firmware volume, in numbers.
constexpr std::size_t volumeGuidAt = 16;
constexpr std::size_t volumeHeaderSizeAt = 48;
constexpr std::size_t minVolumeHeader = 56;
constexpr std::size_t storeHeader = 28;
constexpr std::size_t variableHeader = 60;
constexpr std::uint16_t variableStart = 0x55aa;
constexpr std::uint8_t stateAdded = 0x3f;
constexpr std::uint8_t erased = 0xff;
constexpr std::size_t maxName = 1024;

constexpr const char* volumeGuid = "fff12b8d-7696-4c8b-a985-2747075b4f50";
constexpr const char* storeGuid = "aaf32c78-947b-439a-a180-2e144ec37792";
constexpr const char* imageDatabase = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";
constexpr const char* x509Signature = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072";

/** Bit for variables that only a signature changes. */
constexpr std::uint32_t timeBasedAuthentication = 0x20;

template <typename T>
T little(ByteView data, std::size_t at)
{
    T out = 0;
    for (std::size_t i = sizeof(T); i-- > 0;)
    {
        out = static_cast<T>((static_cast<std::uint64_t>(out) << 8) |
                             data[at + i]);
    }
    return out;
}

template <typename T>
void put(Bytes& to, T value)
{
    for (std::size_t i = 0; i < sizeof(T); i++)
    {
        to.push_back(static_cast<std::uint8_t>(
            static_cast<std::uint64_t>(value) >> (8 * i)));
    }
}

void append(Bytes& to, ByteView data)
{
    to.insert(to.end(), data.begin(), data.end());
}

Guid guidAt(ByteView data, std::size_t at)
{
    Guid out{};
    std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(at), out.size(),
                out.begin());
    return out;
}

std::size_t aligned(std::size_t at)
{
    return (at + 3) & ~std::size_t{3};
}

std::string nameOf(ByteView utf16, std::string_view where)
{
    std::string out;
    for (std::size_t i = 0; i + 3 < utf16.size(); i += 2)
    {
        if (utf16[i + 1] != 0 || utf16[i] < ' ' || utf16[i] > '~')
        {
            throw Refused(where, "has a variable with an odd name");
        }
        out.push_back(static_cast<char>(utf16[i]));
    }
    return out;
}

Bytes marshal(const Variable& variable)
{
    Bytes out;
    put(out, variableStart);
    out.push_back(stateAdded);
    out.push_back(0);
    put(out, variable.attributes);
    put(out, std::uint64_t{0}); // monotonic count
    // A time for those that want one, as early as any: 2000-01-01.
    const bool timed = (variable.attributes & timeBasedAuthentication) != 0;
    Bytes time(16);
    if (timed)
    {
        time = {0xd0, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    }
    append(out, time);
    put(out, std::uint32_t{0}); // public key index
    Bytes name = machine::utf16(variable.name);
    put(name, std::uint16_t{0});
    put(out, static_cast<std::uint32_t>(name.size()));
    put(out, static_cast<std::uint32_t>(variable.data.size()));
    append(out, variable.vendor);
    append(out, name);
    append(out, variable.data);
    return out;
}

/** An EFI_SIGNATURE_LIST with one certificate. */
Bytes signatureList(const std::string& pem, std::string_view where)
{
    std::unique_ptr<BIO, int (*)(BIO*)> bio(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
    std::unique_ptr<X509, void (*)(X509*)> certificate(
        PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr), X509_free);
    unsigned char* raw = nullptr;
    int size = certificate ? i2d_X509(certificate.get(), &raw) : -1;
    if (size < 0)
    {
        throw Refused(where, "is no certificate in PEM form");
    }
    Bytes der(raw, raw + size);
    OPENSSL_free(raw);
    Bytes out;
    append(out, parseGuid(x509Signature));
    put(out, static_cast<std::uint32_t>(16 + 12 + 16 + der.size()));
    put(out, std::uint32_t{0});
    put(out, static_cast<std::uint32_t>(16 + der.size()));
    append(out, parseGuid(machine::espGuid)); // owner: ours
    append(out, der);
    return out;
}

} // namespace

VariableStore VariableStore::parse(Bytes image, std::string_view where)
{
    VariableStore out(std::move(image));
    const ByteView data = out.image_;
    if (data.size() > maxFile || data.size() < minVolumeHeader ||
        guidAt(data, volumeGuidAt) != parseGuid(volumeGuid))
    {
        throw Refused(where, "is no flash with variables");
    }
    const std::size_t start = little<std::uint16_t>(data, volumeHeaderSizeAt);
    if (start < minVolumeHeader || start + storeHeader > data.size() ||
        guidAt(data, start) != parseGuid(storeGuid))
    {
        throw Refused(where, "has no authenticated variable store");
    }
    const std::size_t size = little<std::uint32_t>(data, start + 16);
    if (size < storeHeader || size > data.size() - start)
    {
        throw Refused(where, "has a store that is longer than the flash");
    }
    out.first_ = start + storeHeader;
    out.end_ = start + size;
    std::size_t at = std::min(aligned(out.first_), out.end_);
    while (out.end_ - at >= variableHeader &&
           little<std::uint16_t>(data, at) == variableStart)
    {
        const std::size_t name = little<std::uint32_t>(data, at + 36);
        const std::size_t value = little<std::uint32_t>(data, at + 40);
        const std::size_t left = out.end_ - at - variableHeader;
        if (name > maxName || name > left || value > left - name)
        {
            throw Refused(where,
                          "has a variable that is longer than the store");
        }
        if (data[at + 2] == stateAdded)
        {
            const std::size_t body = at + variableHeader;
            const ByteView bytes = data.subspan(body + name, value);
            out.variables_.push_back({nameOf(data.subspan(body, name), where),
                                      guidAt(data, at + 44),
                                      little<std::uint32_t>(data, at + 4),
                                      Bytes(bytes.begin(), bytes.end())});
        }
        at = std::min(aligned(at + variableHeader + name + value), out.end_);
    }
    out.free_ = at;
    return out;
}

std::optional<Variable> VariableStore::find(std::string_view name,
                                            const Guid& vendor) const
{
    for (const Variable& variable : variables_)
    {
        if (variable.name == name && variable.vendor == vendor)
        {
            return variable;
        }
    }
    return std::nullopt;
}

void VariableStore::add(const Variable& variable)
{
    const Bytes bytes = marshal(variable);
    if (find(variable.name, variable.vendor))
    {
        throw Refused(variable.name, "is there already");
    }
    const auto begin = image_.begin() + static_cast<std::ptrdiff_t>(free_);
    if (bytes.size() > end_ - free_ ||
        !std::all_of(begin, begin + static_cast<std::ptrdiff_t>(bytes.size()),
                     [](std::uint8_t byte) { return byte == erased; }))
    {
        throw Refused(variable.name, "does not fit into the flash");
    }
    std::copy(bytes.begin(), bytes.end(), begin);
    free_ = std::min(aligned(free_ + bytes.size()), end_);
    variables_.push_back(variable);
}

Bytes makeVariables(Bytes empty, const SecureBootKeys& keys)
{
    VariableStore store =
        VariableStore::parse(std::move(empty), "empty variables");
    const Guid global = parseGuid(machine::globalVariables);
    const std::uint32_t signedOnly =
        machine::bootAttributes | timeBasedAuthentication;
    store.add({"PK", global, signedOnly,
               signatureList(keys.platform, "platform certificate")});
    store.add({"KEK", global, signedOnly,
               signatureList(keys.exchange, "exchange certificate")});
    store.add({"db", parseGuid(imageDatabase), signedOnly,
               signatureList(keys.images, "image certificate")});
    for (Mode mode : {Mode::clean, Mode::dirty})
    {
        store.add({machine::bootVariable(mode), global, machine::bootAttributes,
                   machine::loadOption(mode)});
    }
    const std::array<Mode, 1> order = {Mode::clean};
    store.add({"BootOrder", global, machine::bootAttributes,
               machine::bootList(order)});
    return store.image();
}

bool isNext(const Bytes& image, Mode mode)
{
    const VariableStore store = VariableStore::parse(image, "variables");
    const auto next =
        store.find("BootNext", parseGuid(machine::globalVariables));
    const std::array<Mode, 1> wanted = {mode};
    return next && next->data == machine::bootList(wanted);
}

} // namespace airlock::capsule
