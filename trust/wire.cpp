#include "trust/wire.hpp"

#include <fmt/format.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>

#include <utility>

namespace airlock::trust::wire
{

namespace
{

constexpr std::size_t maxDigest = 64;
constexpr std::size_t maxRsa = 512;
constexpr std::size_t coordinate = 32;
/** A digest with the number of its algorithm in front. */
constexpr std::size_t maxName = maxDigest + 2;

struct Free
{
    void operator()(BIGNUM* number) const { BN_free(number); }
    void operator()(ECDSA_SIG* signature) const { ECDSA_SIG_free(signature); }
    void operator()(OSSL_PARAM_BLD* builder) const
    {
        OSSL_PARAM_BLD_free(builder);
    }
    void operator()(OSSL_PARAM* parameters) const
    {
        OSSL_PARAM_free(parameters);
    }
    void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};
using Number = std::unique_ptr<BIGNUM, Free>;

Number numberOf(ByteView bytes)
{
    Number out(
        BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr));
    if (!out)
    {
        throwCrypto("cannot make a number");
    }
    return out;
}

[[noreturn]] void refuse(const ByteReader& in, std::string_view what)
{
    throw Refused(in.where(), what);
}

void require16(ByteReader& in, std::uint16_t want, std::string_view field)
{
    const std::uint16_t have = in.be16();
    if (have != want)
    {
        refuse(in,
               fmt::format("{} is {:#06x}, not {:#06x}", field, have, want));
    }
}

/** A flag byte: 0 or 1, nothing else. */
bool readBool(ByteReader& in, std::string_view field)
{
    const std::uint8_t value = in.u8();
    if (value > 1)
    {
        refuse(in, fmt::format("{} is {}, neither yes nor no", field, value));
    }
    return value == 1;
}

/** TPMT_SYM_DEF_OBJECT */
std::uint16_t readSymmetric(ByteReader& in)
{
    const std::uint16_t algorithm = in.be16();
    if (algorithm == algAes)
    {
        require16(in, 128, "symmetric key size");
        require16(in, algCfb, "symmetric mode");
    }
    else if (algorithm != algNull)
    {
        refuse(in, fmt::format("symmetric algorithm {:#06x} is not allowed",
                               algorithm));
    }
    return algorithm;
}

std::uint16_t readScheme(ByteReader& in)
{
    const std::uint16_t scheme = in.be16();
    switch (scheme)
    {
    case algNull:
        break;
    case algEcdsa:
    case algRsaSsa:
    case algRsaPss:
        require16(in, algSha256, "hash of the scheme");
        break;
    default:
        refuse(in, fmt::format("scheme {:#06x} is not allowed", scheme));
    }
    return scheme;
}

void readEcc(ByteReader& in, Public& out)
{
    require16(in, curveP256, "curve");
    require16(in, algNull, "key derivation scheme");
    out.x = copyOf(readSized(in, coordinate, "x"));
    out.y = copyOf(readSized(in, coordinate, "y"));
}

void readRsa(ByteReader& in, Public& out)
{
    out.keyBits = in.be16();
    if (out.keyBits < 2048 || out.keyBits > maxRsa * 8 || out.keyBits % 8 != 0)
    {
        refuse(in, fmt::format("an RSA key of {} bits is not allowed",
                               out.keyBits));
    }
    out.exponent = in.be32();
    if (out.exponent != 0 && out.exponent != 65537)
    {
        refuse(in, fmt::format("RSA exponent {} is not allowed", out.exponent));
    }
    out.modulus = copyOf(readSized(in, maxRsa, "modulus"));
    if (out.modulus.size() != out.keyBits / 8U)
    {
        refuse(in, "the RSA modulus has another size than the key");
    }
}

void requireMatching(const ByteReader& in, const Public& key)
{
    const bool ecdsa = key.scheme == algEcdsa;
    if (key.scheme != algNull && ecdsa != (key.type == algEcc))
    {
        refuse(in, "signature scheme and key type do not belong together");
    }
}

Key keyFrom(const char* type, OSSL_PARAM_BLD* builder, std::string_view where)
{
    std::unique_ptr<OSSL_PARAM, Free> parameters(
        OSSL_PARAM_BLD_to_param(builder));
    std::unique_ptr<EVP_PKEY_CTX, Free> context(
        EVP_PKEY_CTX_new_from_name(nullptr, type, nullptr));
    EVP_PKEY* key = nullptr;
    if (!parameters || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
        EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_PUBLIC_KEY,
                          parameters.get()) != 1)
    {
        ERR_clear_error();
        throw Refused(where, "is no usable public key");
    }
    Key out(key);
    std::unique_ptr<EVP_PKEY_CTX, Free> check(
        EVP_PKEY_CTX_new(out.get(), nullptr));
    if (!check || EVP_PKEY_public_check(check.get()) != 1)
    {
        ERR_clear_error();
        throw Refused(where, "is no valid public key");
    }
    return out;
}

Key eccKey(const Public& it, std::string_view where)
{
    // As OpenSSL reads a point: 04, x and y with leading zeros.
    Bytes point(1 + 2 * coordinate);
    point[0] = 4;
    std::copy_backward(it.x.begin(), it.x.end(),
                       point.begin() + 1 +
                           static_cast<std::ptrdiff_t>(coordinate));
    std::copy_backward(it.y.begin(), it.y.end(), point.end());
    std::unique_ptr<OSSL_PARAM_BLD, Free> builder(OSSL_PARAM_BLD_new());
    if (!builder ||
        OSSL_PARAM_BLD_push_utf8_string(
            builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) != 1 ||
        OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY,
                                         point.data(), point.size()) != 1)
    {
        throwCrypto("cannot describe a key");
    }
    return keyFrom("EC", builder.get(), where);
}

Key rsaKey(const Public& it, std::string_view where)
{
    Number modulus = numberOf(it.modulus);
    std::unique_ptr<OSSL_PARAM_BLD, Free> builder(OSSL_PARAM_BLD_new());
    if (!builder ||
        OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N,
                               modulus.get()) != 1 ||
        OSSL_PARAM_BLD_push_ulong(builder.get(), OSSL_PKEY_PARAM_RSA_E,
                                  65537) != 1)
    {
        throwCrypto("cannot describe a key");
    }
    return keyFrom("RSA", builder.get(), where);
}

/** TPML_PCR_SELECTION: one entry, SHA-256. Two entries of the same bank, or
 * another bank beside it, would be digested and not be looked at. */
PcrSelection readSelection(ByteReader& in)
{
    const std::uint32_t count = in.be32();
    if (count != 1)
    {
        refuse(in, fmt::format("{} PCR banks are selected, not one", count));
    }
    require16(in, algSha256, "PCR bank");
    const std::uint8_t size = in.u8();
    if (size > 4)
    {
        refuse(in, fmt::format("the PCR selection has {} bytes", size));
    }
    PcrSelection out;
    unsigned number = 0;
    for (std::uint8_t byte : in.take(size))
    {
        for (unsigned bit = 0; bit < 8; ++bit, ++number)
        {
            if (((byte >> bit) & 1) != 0)
            {
                out.add(number); // refuses 24 and above
            }
        }
    }
    return out;
}

Bytes derOf(ByteView r, ByteView s)
{
    std::unique_ptr<ECDSA_SIG, Free> signature(ECDSA_SIG_new());
    Number first = numberOf(r);
    Number second = numberOf(s);
    if (!signature ||
        ECDSA_SIG_set0(signature.get(), first.get(), second.get()) != 1)
    {
        throwCrypto("cannot make a signature");
    }
    // They belong to the signature now.
    static_cast<void>(first.release());
    static_cast<void>(second.release());
    const int size = i2d_ECDSA_SIG(signature.get(), nullptr);
    if (size <= 0)
    {
        throwCrypto("cannot write a signature");
    }
    Bytes out(static_cast<std::size_t>(size));
    unsigned char* at = out.data();
    i2d_ECDSA_SIG(signature.get(), &at);
    return out;
}

} // namespace

std::string attributesText(std::uint32_t attributes)
{
    static constexpr std::pair<std::uint32_t, std::string_view> names[] = {
        {fixedTpm, "fixedtpm"},
        {stClear, "stclear"},
        {fixedParent, "fixedparent"},
        {sensitiveDataOrigin, "sensitivedataorigin"},
        {userWithAuth, "userwithauth"},
        {adminWithPolicy, "adminwithpolicy"},
        {noDa, "noda"},
        {encryptedDuplication, "encryptedduplication"},
        {restricted, "restricted"},
        {decrypt, "decrypt"},
        {sign, "sign"},
    };
    std::string out;
    for (const auto& [bit, name] : names)
    {
        if ((attributes & bit) != 0)
        {
            out += (out.empty() ? "" : "|") + std::string(name);
            attributes &= ~bit;
        }
    }
    if (attributes != 0)
    {
        out += fmt::format("{}{:#x}", out.empty() ? "" : "|", attributes);
    }
    return out.empty() ? "none" : out;
}

Public Public::parse(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    Public out;
    out.type = in.be16();
    if (out.type != algEcc && out.type != algRsa)
    {
        refuse(in, fmt::format("key type {:#06x} is not allowed", out.type));
    }
    require16(in, algSha256, "hash of the name");
    out.attributes = in.be32();
    out.authPolicy = copyOf(readSized(in, maxDigest, "policy"));
    out.symmetric = readSymmetric(in);
    out.scheme = readScheme(in);
    if (out.type == algEcc)
    {
        readEcc(in, out);
    }
    else
    {
        readRsa(in, out);
    }
    requireMatching(in, out);
    requireEnd(in);
    return out;
}

Bytes Public::marshal() const
{
    ByteWriter out;
    out.be16(type);
    out.be16(algSha256);
    out.be32(attributes);
    writeSized(out, authPolicy);
    out.be16(symmetric);
    if (symmetric != algNull)
    {
        out.be16(128);
        out.be16(algCfb);
    }
    out.be16(scheme);
    if (scheme != algNull)
    {
        out.be16(algSha256);
    }
    if (type == algEcc)
    {
        out.be16(curveP256);
        out.be16(algNull);
        writeSized(out, x);
        writeSized(out, y);
    }
    else
    {
        out.be16(keyBits);
        out.be32(exponent);
        writeSized(out, modulus);
    }
    return out.release();
}

Key Public::key(std::string_view where) const
{
    return type == algEcc ? eccKey(*this, where) : rsaKey(*this, where);
}

Bytes nameOf(ByteView publicArea)
{
    ByteWriter out;
    out.be16(algSha256);
    out.bytes(sha256(publicArea));
    return out.release();
}

QuoteInfo QuoteInfo::parse(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    if (const std::uint32_t magic = in.be32(); magic != generatedValue)
    {
        refuse(in, fmt::format("magic is {:#010x}: no TPM made this", magic));
    }
    require16(in, typeQuote, "type");
    QuoteInfo out;
    out.qualifiedSigner = copyOf(readSized(in, maxName, "signer"));
    out.extraData = copyOf(readSized(in, maxDigest, "extra data"));
    out.clock.clock = in.be64();
    out.clock.resetCount = in.be32();
    out.clock.restartCount = in.be32();
    out.clock.safe = readBool(in, "clock safe");
    out.firmwareVersion = in.be64();
    out.selection = readSelection(in);
    out.pcrDigest = copyOf(readSized(in, maxDigest, "PCR digest"));
    if (out.pcrDigest.size() != Digest{}.size())
    {
        refuse(in, "the PCR digest is none of SHA-256");
    }
    requireEnd(in);
    return out;
}

Signature Signature::parse(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    Signature out;
    out.algorithm = in.be16();
    if (out.algorithm != algEcdsa && out.algorithm != algRsaSsa &&
        out.algorithm != algRsaPss)
    {
        refuse(in,
               fmt::format("algorithm {:#06x} is not allowed", out.algorithm));
    }
    require16(in, algSha256, "hash");
    if (out.algorithm == algEcdsa)
    {
        ByteView r = readSized(in, coordinate, "r");
        ByteView s = readSized(in, coordinate, "s");
        out.value = derOf(r, s);
    }
    else
    {
        out.value = copyOf(readSized(in, maxRsa, "signature"));
    }
    requireEnd(in);
    return out;
}

EcdsaParts ecdsaParts(ByteView der, std::string_view where)
{
    const unsigned char* at = der.data();
    std::unique_ptr<ECDSA_SIG, Free> signature(
        d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
    EcdsaParts out;
    if (!signature || at != der.data() + der.size() ||
        BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out.r.data(),
                     static_cast<int>(out.r.size())) < 0 ||
        BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out.s.data(),
                     static_cast<int>(out.s.size())) < 0)
    {
        ERR_clear_error();
        throw Refused(where, "is no ECDSA signature of P-256");
    }
    return out;
}

void writeSized(ByteWriter& out, ByteView data)
{
    if (data.size() > 0xffff)
    {
        throw Error("a sized buffer of the TPM has at most 65535 bytes");
    }
    out.be16(static_cast<std::uint16_t>(data.size()));
    out.bytes(data);
}

ByteView readSized(ByteReader& in, std::size_t max, std::string_view field)
{
    const std::uint16_t size = in.be16();
    if (size > max)
    {
        refuse(in,
               fmt::format("{} has {} bytes, more than {}", field, size, max));
    }
    return in.take(size);
}

void requireEnd(const ByteReader& in)
{
    if (!in.atEnd())
    {
        refuse(in, fmt::format("{} bytes are left over", in.left()));
    }
}

} // namespace airlock::trust::wire
