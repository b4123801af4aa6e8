#include "bootsrv/capsule/varstore.hpp"
#include "common/file.hpp"

#include <gtest/gtest.h>

namespace airlock::capsule
{
namespace
{

using machine::Mode;
using machine::parseGuid;

constexpr std::size_t storeAt = 72;
constexpr std::size_t storeSize = 4096;
constexpr std::size_t flashSize = 8192;

void putLittle(Bytes& to, std::size_t at, std::uint64_t value,
               std::size_t bytes)
{
    for (std::size_t i = 0; i < bytes; i++)
    {
        to.at(at + i) = static_cast<std::uint8_t>(value >> (8 * i));
    }
}

/** A flash without variables, as EDK II formats it. */
Bytes emptyFlash()
{
    Bytes out(flashSize, 0xff);
    const Guid volume = parseGuid("fff12b8d-7696-4c8b-a985-2747075b4f50");
    const Guid store = parseGuid("aaf32c78-947b-439a-a180-2e144ec37792");
    std::copy(volume.begin(), volume.end(), out.begin() + 16);
    putLittle(out, 48, storeAt, 2);
    std::copy(store.begin(), store.end(), out.begin() + storeAt);
    putLittle(out, storeAt + 16, storeSize, 4);
    return out;
}

VariableStore store(Bytes image = emptyFlash())
{
    return VariableStore::parse(std::move(image), "flash");
}

const Guid vendor = parseGuid(machine::globalVariables);

TEST(VariableStore, WhatWasAddedIsFoundAfterReadingItAgain)
{
    VariableStore first = store();
    first.add({"BootNext", vendor, 7, {1, 2}});
    first.add({"odd", vendor, 7, {3}});
    first.add({"last", vendor, 7, {}});
    const VariableStore second = store(first.image());
    EXPECT_EQ(second.find("BootNext", vendor)->data, (Bytes{1, 2}));
    EXPECT_EQ(second.find("odd", vendor)->data, Bytes{3});
    EXPECT_TRUE(second.find("last", vendor)->data.empty());
    EXPECT_EQ(second.find("odd", vendor)->attributes, 7U);
    EXPECT_FALSE(second.find("odd", Guid{}));
    EXPECT_FALSE(second.find("none", vendor));
}

TEST(VariableStore, DeletedOnesDoNotCount)
{
    VariableStore it = store();
    it.add({"BootNext", vendor, 7, {0x01, 0xa1}});
    EXPECT_TRUE(isNext(it.image(), Mode::dirty));
    EXPECT_FALSE(isNext(it.image(), Mode::clean));
    Bytes image = it.image();
    image.at(storeAt + 28 + 2) = 0x3d; // VAR_DELETED
    EXPECT_FALSE(isNext(image, Mode::dirty));
}

TEST(VariableStore, FullOneTakesNoMore)
{
    VariableStore it = store();
    it.add({"much", vendor, 7, Bytes(storeSize - 300)});
    EXPECT_THROW(it.add({"more", vendor, 7, Bytes(300)}), Refused);
    EXPECT_THROW(it.add({"much", vendor, 7, {}}), Refused);
}

TEST(VariableStore, LengthsOfTheGuestAreNotBelieved)
{
    VariableStore it = store();
    it.add({"name", vendor, 7, {1}});
    const std::size_t header = storeAt + 28;
    for (std::size_t field : {36U, 40U})
    {
        for (std::uint64_t value : {0xffffffffULL, 0x10000ULL, 4096ULL})
        {
            Bytes image = it.image();
            putLittle(image, header + field, value, 4);
            EXPECT_THROW(store(image), Refused) << field << " " << value;
        }
    }
    Bytes image = it.image();
    putLittle(image, storeAt + 16, flashSize, 4);
    EXPECT_THROW(store(image), Refused);
    image = it.image();
    putLittle(image, 48, flashSize - 1, 2);
    EXPECT_THROW(store(image), Refused);
}

TEST(VariableStore, EveryCutIsHandled)
{
    VariableStore it = store();
    it.add({"name", vendor, 7, Bytes(40, 1)});
    for (std::size_t size = 0; size < 300; size++)
    {
        Bytes image = it.image();
        image.resize(size);
        EXPECT_THROW(store(image), Refused) << size;
    }
}

TEST(MakeVariables, DebiansFlashTakesThem)
{
    const std::string certificate =
        "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n";
    const Bytes empty =
        readFile("/usr/share/OVMF/OVMF_VARS_4M.fd", VariableStore::maxFile);
    EXPECT_NO_THROW(store(empty));
    EXPECT_THROW(makeVariables(empty, {certificate, "", ""}), Refused);
}

} // namespace
} // namespace airlock::capsule
