#include "bootsrv/machine/crypt_area.hpp"

#include "common/error.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <memory>

namespace airlock::machine
{

namespace
{

constexpr std::size_t keyBytes = 64;
/** What is encrypted or decrypted at a time: fits a core's cache. */
constexpr std::uint64_t pieceBytes = 256U << 10;

struct FreeContext
{
    void operator()(EVP_CIPHER_CTX* context) const
    {
        EVP_CIPHER_CTX_free(context);
    }
};

} // namespace

void cryptSectors(ByteView key, bool encrypt, std::uint64_t sector,
                  std::span<std::uint8_t> data)
{
    std::unique_ptr<EVP_CIPHER_CTX, FreeContext> context(EVP_CIPHER_CTX_new());
    bool good =
        context && EVP_CipherInit_ex(context.get(), EVP_aes_256_xts(), nullptr,
                                     key.data(), nullptr, encrypt ? 1 : 0) == 1;
    for (std::size_t at = 0; good && at < data.size(); at += sectorBytes)
    {
        std::array<std::uint8_t, 16> tweak{};
        for (std::size_t i = 0; i < sizeof sector; i++)
        {
            tweak[i] = static_cast<std::uint8_t>(sector >> (8 * i));
        }
        int size = 0;
        good = EVP_CipherInit_ex(context.get(), nullptr, nullptr, nullptr,
                                 tweak.data(), -1) == 1 &&
               EVP_CipherUpdate(context.get(), data.data() + at, &size,
                                data.data() + at,
                                static_cast<int>(sectorBytes)) == 1;
        sector++;
    }
    if (!good)
    {
        throw Error("cannot encrypt or decrypt what is on the staging disk");
    }
}

Secret areaKey(const Secret& jobKey, std::string_view area)
{
    ByteWriter info;
    info.text("airlock staging v1");
    info.u8(0);
    info.text(area);
    Secret out(keyBytes);
    hkdf(jobKey, info.data(), out.bytes());
    return out;
}

CryptArea::CryptArea(Blocks& blocks, const Area& area, const Secret& jobKey,
                     std::string_view name)
    : blocks_(blocks), area_(area), key_(areaKey(jobKey, name))
{}

void CryptArea::readSectors(std::span<std::uint8_t> out,
                            std::uint64_t offset) const
{
    blocks_.read(out, area_.offset + offset);
    cryptSectors(key_.view(), false, offset / sectorBytes, out);
}

void CryptArea::read(std::span<std::uint8_t> out, std::uint64_t offset) const
{
    if (offset > area_.bytes || out.size() > area_.bytes - offset)
    {
        throw Refused("staging", "an area ends before what is to be read");
    }
    Bytes piece;
    while (!out.empty())
    {
        std::uint64_t skip = offset % sectorBytes;
        std::uint64_t now = std::min<std::uint64_t>(out.size(), pieceBytes);
        std::uint64_t sectors = (skip + now + sectorBytes - 1) / sectorBytes;
        piece.resize(sectors * sectorBytes);
        readSectors(piece, offset - skip);
        std::copy_n(piece.begin() + static_cast<std::ptrdiff_t>(skip), now,
                    out.begin());
        out = out.subspan(now);
        offset += now;
    }
}

void CryptArea::write(ByteView data, std::uint64_t offset)
{
    if (data.size() % sectorBytes != 0 || offset % sectorBytes != 0 ||
        offset > area_.bytes || data.size() > area_.bytes - offset)
    {
        throw Refused("staging", "what is to be written does not fit an area");
    }
    while (!data.empty())
    {
        std::uint64_t now = std::min<std::uint64_t>(data.size(), pieceBytes);
        Bytes piece(data.begin(),
                    data.begin() + static_cast<std::ptrdiff_t>(now));
        cryptSectors(key_.view(), true, offset / sectorBytes, piece);
        blocks_.write(piece, area_.offset + offset);
        data = data.subspan(now);
        offset += now;
    }
}

} // namespace airlock::machine
