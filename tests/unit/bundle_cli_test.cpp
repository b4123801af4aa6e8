#include "cli_outcome.hpp"
#include "devmodel/handover/bundle.hpp"
#include "devmodel/handover/reduce.hpp"
#include "devmodel/handover/stream.hpp"
#include "tests/unit/admit_guest.hpp"
#include "tests/unit/test_streams.hpp"
#include "tools/airlock-bundle/cli.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

namespace airlock::bundletool
{
namespace
{

using handover::Section;
using test::Outcome;
using ::testing::HasSubstr;

class BundleCommand : public ::testing::Test
{
  protected:
    Outcome command(std::vector<std::string> words)
    {
        words.insert(words.begin(), "airlock-bundle");
        return test::runCommand(words, run);
    }

    std::string path(const std::string& name) const
    {
        return directory.path() / name;
    }

    std::string file(const std::string& name, ByteView data)
    {
        writeFileAtomic(path(name), data);
        return path(name);
    }

    std::string recorded(const std::string& name)
    {
        return file(name, test::loadStream(name));
    }

    /** A recorded guest as the production machine would save it. */
    std::string reduced(const std::string& name)
    {
        EXPECT_EQ(
            command({"reduce", recorded(name), "-o", path("reduced")}).code,
            kOk);
        return path("reduced");
    }

    /** RAM of the recorded guests, which never ran. */
    std::string memory()
    {
        std::string name = file("memory", {});
        std::filesystem::resize_file(name, 64U << 20);
        return name;
    }

    TempDirectory directory;
};

TEST_F(BundleCommand, HelpAndWrongUsage)
{
    EXPECT_EQ(command({"--help"}).code, kOk);
    EXPECT_THAT(command({"--help"}).out, HasSubstr("Exit status"));
    for (const char* sub : {"inspect", "reduce", "verify", "diff"})
    {
        Outcome help = command({sub, "--help"});
        EXPECT_EQ(help.code, kOk);
        EXPECT_THAT(help.out, HasSubstr("--json"));
        EXPECT_EQ(command({sub}).code, kFailed);
    }
    EXPECT_EQ(command({}).code, kFailed);
    EXPECT_EQ(command({"explode"}).code, kFailed);
    EXPECT_EQ(command({"inspect", "a", "b"}).code, kFailed);
}

TEST_F(BundleCommand, MissingFilesAreErrors)
{
    Outcome outcome = command({"inspect", path("none")});
    EXPECT_EQ(outcome.code, kFailed);
    EXPECT_THAT(outcome.err, HasSubstr("none"));
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(command({"reduce", recorded("q35-1cpu"), "-o",
                       path("no/such/directory/file")})
                  .code,
              kFailed);
}

TEST_F(BundleCommand, InspectListsSectionsAndBlocks)
{
    Outcome text = command({"inspect", recorded("q35-2cpu")});
    EXPECT_EQ(text.code, kOk);
    EXPECT_THAT(text.out, HasSubstr("machine pc-q35-7.2, boot form"));
    EXPECT_THAT(text.out, HasSubstr("0000:00:02.0/virtio-blk/0"));
    EXPECT_THAT(text.out, HasSubstr("legacy       i8042"));

    Json json = command({"inspect", "--json", path("q35-2cpu")}).json();
    EXPECT_EQ(json["machine"], "pc-q35-7.2");
    EXPECT_EQ(json["sections"].size(), 36U);
    EXPECT_EQ(json["sections"][3]["name"], "cpu");
    EXPECT_EQ(json["sections"][3]["class"], "required");
    EXPECT_EQ(json["memory_blocks"][0]["name"], "ram");
    EXPECT_EQ(json["memory_blocks"][0]["pages"], 0);
    EXPECT_EQ(json["memory_blocks"][0]["device"], "pcihost");
}

TEST_F(BundleCommand, InspectShowsDevicesThatTheCatalogLacks)
{
    Outcome outcome = command({"inspect", recorded("pc")});
    EXPECT_EQ(outcome.code, kOk);
    EXPECT_THAT(outcome.out, HasSubstr("unknown"));
}

TEST_F(BundleCommand, InspectRefusesOtherFiles)
{
    Bytes stream = test::loadStream("q35-1cpu");
    std::string name = file("cut", ByteView(stream).first(1000));
    Outcome text = command({"inspect", name});
    EXPECT_EQ(text.code, kRefused);
    EXPECT_EQ(text.out, "");
    EXPECT_THAT(text.err, HasSubstr("airlock-bundle: refused: stream: "));

    Json json = command({"inspect", name, "--json"}).json();
    EXPECT_EQ(json["verdict"], "refused");
    EXPECT_EQ(json["where"], "stream");
}

TEST_F(BundleCommand, ReduceWritesWhatTheLibraryKeeps)
{
    Outcome text =
        command({"reduce", recorded("q35-extras"), "-o", path("out")});
    EXPECT_EQ(text.code, kOk);
    EXPECT_THAT(text.out, HasSubstr("migration bookkeeping"));
    EXPECT_THAT(text.out, HasSubstr("not yet admitted"));

    handover::Reduced want = handover::reduce(
        handover::parseBootStream(test::loadStream("q35-extras")).sections);
    EXPECT_EQ(readFile(path("out"), 1U << 20),
              handover::writeProductionStream("airlock-1.0", want.kept));

    Json json =
        command({"reduce", path("q35-extras"), "-o", path("out"), "--json"})
            .json();
    EXPECT_EQ(json["kept"].size(), want.kept.size());
    EXPECT_EQ(json["dropped"].size(), want.dropped.size());
    EXPECT_EQ(json["written"], std::filesystem::file_size(path("out")));
}

TEST_F(BundleCommand, ReduceRefusesUnknownDevicesAndWritesNothing)
{
    Outcome outcome =
        command({"reduce", recorded("q35-vapic"), "-o", path("out"), "--json"});
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_EQ(outcome.json()["where"], "kvm-tpr-opt/0");
    EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(BundleCommand, InspectReadsTheProductionForm)
{
    Json json = command({"inspect", reduced("q35-2cpu"), "--json"}).json();
    EXPECT_EQ(json["form"], "production");
    EXPECT_EQ(json["machine"], "airlock-1.0");
    EXPECT_EQ(json["sections"].size(), 15U);
}

TEST_F(BundleCommand, DiffOfTheSameIsEmpty)
{
    std::string name = recorded("q35-2cpu");
    Outcome outcome = command({"diff", name, name});
    EXPECT_EQ(outcome.code, kOk);
    EXPECT_EQ(outcome.out, "no differences\n");
    EXPECT_EQ(command({"diff", name, name, "--json"}).json()["equal"], true);
}

TEST_F(BundleCommand, DiffNamesSectionsAndFields)
{
    Outcome text =
        command({"diff", recorded("q35-2cpu"), recorded("q35-extras")});
    EXPECT_EQ(text.code, kRefused);
    EXPECT_THAT(text.out, HasSubstr("fdc/0: only in B"));
    EXPECT_THAT(text.out, HasSubstr("mc146818rtc/0: contents"));
    EXPECT_THAT(text.out, HasSubstr("base_rtc"));

    Json json =
        command({"diff", "--json", path("q35-extras"), path("q35-2cpu")})
            .json();
    EXPECT_EQ(json["equal"], false);
    EXPECT_EQ(json["order_differs"], false);
    // The files are the other way round now, and A's sections come first.
    EXPECT_EQ(json["sections"].back()["section"], "serial/0");
    EXPECT_EQ(json["sections"].back()["what"], "only in A");
}

/** One changed byte in a section that has a table shows as one field. */
TEST_F(BundleCommand, DiffNamesFieldsByTheTables)
{
    handover::BootStream stream =
        handover::parseBootStream(test::loadStream("q35-1cpu"));
    std::vector<Section> kept = handover::reduce(stream.sections).kept;
    std::string a =
        file("a", handover::writeProductionStream("airlock-1.0", kept));
    kept.at(0).payload.at(23) ^= 1; // "timer"
    std::string b =
        file("b", handover::writeProductionStream("airlock-1.0", kept));

    Json json = command({"diff", a, b, "--json"}).json();
    ASSERT_EQ(json["sections"].size(), 1U);
    EXPECT_EQ(json["sections"][0]["section"], "timer/0");
    ASSERT_EQ(json["sections"][0]["fields"].size(), 1U);
    EXPECT_EQ(json["sections"][0]["fields"][0]["field"], "cpu_clock_offset");
}

TEST_F(BundleCommand, DiffSeesOrderAndMachine)
{
    handover::BootStream stream =
        handover::parseBootStream(test::loadStream("q35-1cpu"));
    std::vector<Section> kept = handover::reduce(stream.sections).kept;
    std::string a =
        file("a", handover::writeProductionStream("airlock-1.0", kept));
    std::swap(kept.at(0), kept.at(1));
    std::string b =
        file("b", handover::writeProductionStream("airlock-2.0", kept));
    Json json = command({"diff", a, b, "--json"}).json();
    EXPECT_EQ(json["equal"], false);
    EXPECT_EQ(json["order_differs"], true);
    EXPECT_EQ(json["machine_differs"], true);
    EXPECT_EQ(json["sections"].size(), 0U);
}

TEST_F(BundleCommand, VerifyAdmitsAStateAgainstItself)
{
    std::string reference = reduced("q35-2cpu");
    Outcome text =
        command({"verify", path("q35-2cpu"), "--reference", reference,
                 "--memory", memory(), "-o", path("admitted")});
    EXPECT_EQ(text.code, kOk) << text.err;
    EXPECT_THAT(text.out, HasSubstr("admitted: 15 sections"));
    EXPECT_TRUE(std::filesystem::exists(path("admitted")));
    EXPECT_EQ(command({"verify", path("admitted"), "--reference", reference,
                       "--memory", path("memory"), "--json"})
                  .json()["verdict"],
              "admitted");
}

// --- A real guest, booted on the boot machine --------------------------------

class VerifyGuest : public BundleCommand
{
  protected:
    /** The guest's memory: only what the admission looks at. */
    std::string guestMemory()
    {
        std::string name = file("ram", {});
        std::filesystem::resize_file(name, 512U << 20);
        UniqueFd fd = openFile(name, O_WRONLY);
        guest.memory.writeTo(fd.get());
        return name;
    }

    std::vector<std::string> verify(const std::string& candidate)
    {
        return {"verify", candidate, "--reference",
                recorded("guest-2cpu-production"), "--json"};
    }

    std::vector<std::string> verifyWithMemory(const std::string& candidate)
    {
        std::vector<std::string> words = verify(candidate);
        words.insert(words.end(), {"--memory", guestMemory()});
        return words;
    }

    handover::Bundle bundle(ByteView state)
    {
        handover::Manifest manifest;
        manifest.job = handover::JobTicket::issue(
            "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1);
        manifest.guest = {
            "airlock-boot-1.0", "airlock-1.0", "tcg", "Nehalem", 2,
            512U << 20,         512U << 20,    {}};
        UniqueFd fd = openFile(guestMemory(), O_RDWR);
        auto memory = handover::describeMemory(fd.get(), 512U << 20);
        return {manifest, Bytes(state.begin(), state.end()), memory.digest,
                std::move(fd)};
    }

    test::Guest guest;
};

TEST_F(VerifyGuest, AdmitsTheWholeStream)
{
    std::vector<std::string> words =
        verifyWithMemory(recorded("guest-2cpu-boot"));
    words.insert(words.end(), {"-o", path("admitted")});
    Outcome outcome = command(words);
    EXPECT_EQ(outcome.code, kOk) << outcome.err;
    EXPECT_EQ(outcome.json()["verdict"], "admitted");
    EXPECT_EQ(outcome.json()["sections"], guest.reference.size());
    EXPECT_EQ(outcome.json()["bytes"],
              std::filesystem::file_size(path("admitted")));
    EXPECT_EQ(command(verifyWithMemory(path("admitted"))).code, kOk);
}

TEST_F(VerifyGuest, RefusesImpossibleStatesWithSectionAndReason)
{
    guest.change("cpu",
                 [](handover::Record& s) { s.number("env.smbase") = 0xa0000; });
    std::string spoiled =
        file("spoiled",
             handover::writeProductionStream("airlock-1.0", guest.candidate));
    Outcome outcome = command(verifyWithMemory(spoiled));
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_EQ(outcome.json()["verdict"], "refused");
    EXPECT_EQ(outcome.json()["where"], "cpu/0: env.smbase");
    EXPECT_EQ(outcome.json()["reason"],
              "0xa0000 differs from the production machine's 0x30000");
    EXPECT_THAT(outcome.err, HasSubstr("refused: cpu/0: env.smbase"));
}

TEST_F(VerifyGuest, RefusesAnotherGuestsMemory)
{
    std::vector<std::string> words = verify(recorded("guest-2cpu-boot"));
    std::string zeros = file("zeros", {});
    std::filesystem::resize_file(zeros, 512U << 20);
    words.insert(words.end(), {"--memory", zeros});
    Outcome outcome = command(words);
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_THAT(outcome.json()["where"].get<std::string>(),
                HasSubstr("last_avail_idx"));
}

TEST_F(VerifyGuest, ABundleBringsItsMemory)
{
    Bytes state = test::loadStream("guest-2cpu-boot");
    bundle(state).save(path("bundle"));
    Outcome outcome = command(verify(path("bundle")));
    EXPECT_EQ(outcome.code, kOk) << outcome.err;

    UniqueFd fd = openFile(path("bundle/memory.img"), O_WRONLY);
    ASSERT_EQ(::pwrite(fd.get(), "x", 1, 0x1234), 1);
    outcome = command(verify(path("bundle")));
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_THAT(outcome.json()["where"].get<std::string>(),
                HasSubstr("memory"));
}

TEST_F(BundleCommand, VerifyRefusesAnotherMachinesState)
{
    std::string reference = reduced("q35-2cpu");
    Outcome outcome =
        command({"verify", recorded("q35-4cpu"), "--reference", reference,
                 "--memory", memory(), "-o", path("admitted"), "--json"});
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_EQ(outcome.json()["verdict"], "refused");
    EXPECT_THAT(outcome.json()["where"].get<std::string>(), HasSubstr("cpu"));
    EXPECT_FALSE(std::filesystem::exists(path("admitted")));
}

TEST_F(BundleCommand, VerifyNeedsMemoryAndAProductionReference)
{
    std::string reference = reduced("q35-2cpu");
    Outcome none =
        command({"verify", path("q35-2cpu"), "--reference", reference});
    EXPECT_EQ(none.code, kFailed);
    EXPECT_THAT(none.err, HasSubstr("--memory"));

    Outcome wrong = command({"verify", path("q35-2cpu"), "--reference",
                             path("q35-2cpu"), "--memory", memory()});
    EXPECT_EQ(wrong.code, kFailed);
    EXPECT_THAT(wrong.err, HasSubstr("reference"));
}

} // namespace
} // namespace airlock::bundletool
