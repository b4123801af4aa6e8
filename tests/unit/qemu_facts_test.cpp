/** What is asked of the QEMUs of both ends, and how it is compared. */
#include "bootsrv/job.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "tools/airlockctl/matching.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::boot
{
namespace
{

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::SizeIs;

constexpr std::string_view script = R"(#!/bin/sh
case "$*" in
--version)
    echo 'QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-1)'
    echo 'Copyright (c) 2003-2025 Fabrice Bellard' ;;
*'-machine help')
    printf 'Supported machines are:\nairlock-boot-1.0     Boots\nnone  empty\n' ;;
*'-cpu help')
    printf 'Available CPUs:\n  Nehalem      (alias of Nehalem-v1)\n'
    printf '  Nehalem-v1   Intel\n\nRecognized CPUID flags:\n  3dnow\n' ;;
*'-accel help')
    printf 'Accelerators supported in QEMU binary:\ntcg\nkvm\n' ;;
*) exit 1 ;;
esac
)";

TEST(QemuFacts, AreTakenFromWhatQemuSays)
{
    TempDirectory directory;
    std::filesystem::path qemu = directory.path() / "qemu";
    writeFileAtomic(qemu, script, 0755);
    QemuFacts facts = askQemu(qemu);
    EXPECT_EQ(facts.version, "10.0.2");
    EXPECT_EQ(facts.build, "");
    EXPECT_THAT(facts.machines, AllOf(Contains("airlock-boot-1.0"), SizeIs(2)));
    EXPECT_THAT(facts.cpuModels,
                AllOf(Contains("Nehalem"), Contains("Nehalem-v1")));
    EXPECT_THAT(facts.accelerators, Contains("tcg"));
    Health health;
    health.version = "1";
    health.mode = "clean";
    health.qemu = facts;
    Json json = health.toJson();
    EXPECT_EQ(Health::parse(JsonField(json, "health")).qemu, facts);
    json.erase("qemu");
    EXPECT_FALSE(Health::parse(JsonField(json, "health")).qemu);
    json["qemu"] = 7;
    EXPECT_THROW(Health::parse(JsonField(json, "health")), Refused);
}

TEST(QemuFacts, OtherProgramsAreErrors)
{
    EXPECT_THROW(askQemu("/bin/false"), Error);
    EXPECT_THROW(askQemu("/bin/echo"), Error);
    EXPECT_THROW(askQemu("/nonexistent/qemu"), Error);
}

TEST(BuildId, IsTheOneInTheProgram)
{
    EXPECT_THAT(buildIdOf("/proc/self/exe"), MatchesRegex("[0-9a-f]{16,64}"));
    TempDirectory directory;
    Bytes program = readFile("/proc/self/exe", 1U << 30);
    std::filesystem::path cut = directory.path() / "cut";
    for (std::size_t size : {0U, 10U, 63U})
    {
        writeFileAtomic(cut, ByteView(program).first(size));
        EXPECT_EQ(buildIdOf(cut), "") << size;
    }
    // Headers that point behind the end.
    writeFileAtomic(cut, ByteView(program).first(100));
    EXPECT_THROW(buildIdOf(cut), Error);
}

class Matching : public ::testing::Test
{
  protected:
    Matching()
    {
        domain.cpuModel = "Nehalem";
        home.version = server.version = "10.0.2";
        home.machines = {"airlock-1.0"};
        server.machines = {"airlock-boot-1.0"};
        home.cpuModels = server.cpuModels = {"Nehalem"};
        home.accelerators = server.accelerators = {"tcg"};
    }

    std::vector<std::string> wrong()
    {
        return ctl::mismatches(domain, home, server);
    }

    host::DomainSpec domain;
    QemuFacts home;
    QemuFacts server;
};

TEST_F(Matching, WhatFitsIsFine)
{
    EXPECT_THAT(wrong(), IsEmpty());
    server.cpuModels.insert("EPYC");
    server.build = "abc";
    EXPECT_THAT(wrong(), IsEmpty());
}

TEST_F(Matching, EachDifferenceIsNamed)
{
    server.version = "10.1.0";
    EXPECT_THAT(wrong(), AllOf(SizeIs(1), Each(HasSubstr("10.1.0"))));
    server.version = home.version;
    server.machines = {"airlock-boot-2.0"};
    EXPECT_THAT(wrong(), AllOf(SizeIs(1), Each(HasSubstr("airlock-boot-1.0"))));
    server.machines = {"airlock-boot-1.0"};
    server.cpuModels = {"EPYC"};
    EXPECT_THAT(wrong(), AllOf(SizeIs(1), Each(HasSubstr("Nehalem"))));
    server.cpuModels = {"Nehalem"};
    domain.accelerator = vm::Accelerator::kvm;
    EXPECT_THAT(wrong(), AllOf(SizeIs(1), Each(HasSubstr("kvm"))));
    server = {};
    EXPECT_THAT(wrong(), SizeIs(4));
}

TEST_F(Matching, EachMachineHasItsBootMachine)
{
    EXPECT_EQ(ctl::bootMachineFor("airlock-1.0"), "airlock-boot-1.0");
    EXPECT_EQ(ctl::bootMachineFor("airlock-2.0"), "airlock-boot-2.0");
}

} // namespace
} // namespace airlock::boot
