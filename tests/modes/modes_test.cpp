#include "bootsrv/capsule/enrol.hpp"
#include "common/epoch_address.hpp"
#include "common/file.hpp"
#include "tests/modes/capsule_files.hpp"
#include "tests/modes/probe.hpp"
#include "tools/rigs/capsule_case.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>

// A whole boot host as a VM: real firmware with Secure Boot, a software TPM,
// the kernel and the first process of both modes; only the work of a mode is
// the test's. See tests/suites/modes.sh for the images.

namespace airlock::capsule
{
namespace
{

using machine::EnrolmentRequest;
using testing::HasSubstr;
using testing::Not;

/** Under TCG on a busy machine. */
constexpr auto bootTime = std::chrono::minutes(6);
constexpr std::uint64_t stagingSize = 32 * mebibyte;

std::filesystem::path images()
{
    return test::imagesOf("AIRLOCK_MODES_IMAGES", "modes");
}

std::string said(const ModeEnd& end, const std::string& what)
{
    return test::said(end.console, what);
}

/** A capsule that is enrolled, kept for all tests: each begins and ends with
 * it switched off, its next mode being clean. */
class ModesTest : public testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        home = std::make_unique<TempDirectory>("modes");
        siteKey = std::make_unique<trust::Key>(rig::policyKeyOf(images()));
        capsule = std::make_unique<Capsule>(
            Capsule::create(home->path() / "one", parts()));
        enrollCapsule(*capsule, {}, approval(), request("one"), bootTime);
    }

    static void TearDownTestSuite()
    {
        capsule.reset();
        siteKey.reset();
        home.reset();
    }

    static CapsuleParts parts() { return rig::partsOf(images(), stagingSize); }

    static Secret addressRoot()
    {
        return Secret::key(sha256(Bytes{1, 2, 3}), "root");
    }

    static Approval approval() { return {*siteKey, images() / "clean.efi", 1}; }

    static EnrolmentRequest request(const std::string& name)
    {
        EnrolmentRequest out;
        out.name = name;
        out.addressRoot = Secret(addressRoot().view());
        return out;
    }

    /** What clean mode tells of its secrets, once they are known. */
    static std::string secrets()
    {
        static const std::string known = said(run("off"), "secrets");
        EXPECT_EQ(known.size(), 64U) << known;
        return known;
    }

    static void order(const std::string& text)
    {
        Bytes sector(probe::orderSize);
        std::copy(text.begin(), text.end(), sector.begin());
        UniqueFd disk = openFile(capsule->stagingDisk(), O_WRONLY);
        writeAllAt(disk.get(), sector, capsule->layout().staging);
    }

    /** Dirty mode has what a machine's has: what it tries is more than what a
     * capsule leaves it. */
    static CapsuleOptions withAll()
    {
        CapsuleOptions out;
        out.dirtyHasAll = true;
        return out;
    }

    static ModeEnd run(const std::string& what, bool dirty = false,
                       const CapsuleOptions& options = withAll())
    {
        order(what);
        return capsule->run(options, dirty, bootTime);
    }

    static std::unique_ptr<TempDirectory> home;
    static std::unique_ptr<trust::Key> siteKey;
    static std::unique_ptr<Capsule> capsule;
};

std::unique_ptr<TempDirectory> ModesTest::home;
std::unique_ptr<trust::Key> ModesTest::siteKey;
std::unique_ptr<Capsule> ModesTest::capsule;

TEST_F(ModesTest, CleanUnsealsBeforeAndAfterDirtyWhichCannot)
{
    const ModeEnd first = run("dirty");
    const std::string secrets = said(first, "secrets");
    EXPECT_EQ(secrets.size(), 64U) << secrets;
    EXPECT_THAT(said(first, "second unseal"), Not(HasSubstr("it worked")));
    EXPECT_EQ(said(first, "side files"), "no");
    ASSERT_TRUE(first.dirtyNext) << first.console;

    const ModeEnd dirty = run("unseal network secure-boot", true);
    EXPECT_THAT(said(dirty, "unseal"), HasSubstr("another state"));
    EXPECT_THAT(said(dirty, "authorizations"), HasSubstr("another state"));
    EXPECT_EQ(said(dirty, "network"), " lo");
    EXPECT_THAT(said(dirty, "secure boot"), Not(HasSubstr("it worked")));
    EXPECT_FALSE(dirty.dirtyNext);

    const ModeEnd second = run("off");
    EXPECT_EQ(said(second, "secrets"), secrets);
    EXPECT_FALSE(second.dirtyNext);
}

/** A machine whose disks and variables stay as dirty mode leaves them. */
CapsuleOptions realMachine()
{
    CapsuleOptions out;
    out.keepAll = true;
    return out;
}

/** Runs mtools on the partition with the images. */
void onImages(const Capsule& capsule, std::vector<std::string> argv)
{
    argv.insert(argv.begin() + 1, {"-i", capsule.imageDisk().string() + "@@" +
                                             std::to_string(mebibyte)});
    SpawnOptions options;
    options.argv = std::move(argv);
    const ProcessOutput output = runProgram(options);
    ASSERT_TRUE(output.status.ok()) << output.err;
}

TEST_F(ModesTest, AnotherCommandLineInTheBootEntryIsNotTaken)
{
    ASSERT_TRUE(run("dirty", false, realMachine()).dirtyNext);
    const ModeEnd dirty = run("options", true, realMachine());
    ASSERT_EQ(said(dirty, "options"), "written");

    const ModeEnd clean = run("off", false, realMachine());
    EXPECT_THAT(said(clean, "command line"), Not(HasSubstr("evil")));
    EXPECT_THAT(said(clean, "command line"), HasSubstr("lockdown=integrity"));
    EXPECT_EQ(said(clean, "secrets"), secrets());
}

TEST_F(ModesTest, DirtyForEverEndsWithTheCapsulesReset)
{
    ASSERT_TRUE(run("dirty", false, realMachine()).dirtyNext);
    const ModeEnd dirty = run("boot-order", true, realMachine());
    ASSERT_EQ(said(dirty, "boot order"), "dirty");
    // A real machine stays dirty: nothing is unsealed, somebody has to come.
    const ModeEnd again = run("network unseal", false, realMachine());
    EXPECT_EQ(said(again, "network"), " lo");
    EXPECT_THAT(said(again, "unseal"), Not(HasSubstr("it worked")));
    // A capsule's variables are not dirty mode's to choose.
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

TEST_F(ModesTest, CleanModePutsTheBootOrderRight)
{
    ASSERT_TRUE(run("dirty", false, realMachine()).dirtyNext);
    ASSERT_EQ(
        said(run("clean-next boot-order", true, realMachine()), "boot order"),
        "dirty");
    // Dirty chose clean for once; it is the real one, and says so.
    EXPECT_EQ(said(run("off", false, realMachine()), "secrets"), secrets());
    EXPECT_EQ(said(run("off", false, realMachine()), "secrets"), secrets());
}

TEST_F(ModesTest, FilesBesideTheImageUnsealNothing)
{
    const std::filesystem::path file = home->path() / "evil.cred";
    writeFileAtomic(file, std::string_view("evil"));
    onImages(*capsule, {"mmd", "::/EFI/BOOT/BOOTX64.EFI.extra.d"});
    onImages(*capsule, {"mcopy", file.string(),
                        "::/EFI/BOOT/BOOTX64.EFI.extra.d/evil.cred"});
    const ModeEnd fooled = run("off");
    EXPECT_THAT(fooled.console, HasSubstr("Clean mode cannot go on"));
    EXPECT_THAT(fooled.console, HasSubstr("no policy fits"));
    EXPECT_THAT(fooled.console, Not(HasSubstr("probe secrets")));
    onImages(*capsule, {"mdeltree", "::/EFI/BOOT/BOOTX64.EFI.extra.d"});
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

TEST_F(ModesTest, UnsignedImageIsNotStarted)
{
    capsule->replaceImages(
        {images() / "clean.unsigned.efi", images() / "dirty.efi"});
    order("off");
    RunningMode mode = capsule->start({});
    mode.waitForConsole("Access Denied", bootTime);
    mode.kill();
    capsule->replaceImages({images() / "clean.efi", images() / "dirty.efi"});
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

TEST_F(ModesTest, WipedRecordGivesNothingAndStartsNothing)
{
    UniqueFd disk = openFile(capsule->dataDisk(), O_RDWR);
    Bytes saved(machine::SealStore::size);
    readExactAt(disk.get(), saved, capsule->layout().seal);
    ASSERT_TRUE(run("dirty").dirtyNext);
    ASSERT_EQ(said(run("wipe", true), "wipe"), "done");

    const ModeEnd clean = run("off");
    EXPECT_THAT(clean.console, HasSubstr("This machine is not enrolled"));
    EXPECT_THAT(clean.console, Not(HasSubstr("probe secrets")));

    writeAllAt(disk.get(), saved, capsule->layout().seal);
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

TEST_F(ModesTest, RequestOfDirtyModeDoesNotCount)
{
    const std::string before = secrets();
    ASSERT_TRUE(run("dirty").dirtyNext);
    ASSERT_EQ(said(run("request", true), "request"), "left");

    const ModeEnd clean = run("off");
    EXPECT_THAT(clean.console, HasSubstr("A request to enrol does not count"));
    EXPECT_THAT(clean.console, HasSubstr("was not signed"));
    EXPECT_EQ(said(clean, "secrets"), before) << clean.console;
    EXPECT_FALSE(sealStoreOf(*capsule).read().request);
    EXPECT_EQ(said(run("off"), "secrets"), before);
}

TEST_F(ModesTest, DirtyModeThatHangsIsEnded)
{
    ASSERT_TRUE(run("dirty").dirtyNext);
    order("hang");
    RunningMode dirty = capsule->start({}, true);
    dirty.waitForConsole("probe holding", bootTime);
    const ModeEnd end = dirty.finish(Milliseconds(1));
    EXPECT_TRUE(end.timedOut);
    EXPECT_FALSE(end.dirtyNext);
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

TEST_F(ModesTest, NothingOfTheSecretsIsLeftInMemoryOrOnDisks)
{
    const Secret root = addressRoot();
    const CapsuleOptions options;
    const std::filesystem::path file = home->path() / "memory";
    {
        order("hold");
        RunningMode clean = capsule->start(options);
        clean.waitForConsole("probe holding", bootTime);
        // The search finds it where it has to be.
        test::saveMemory(clean, file, options.memoryMiB);
        EXPECT_GT(test::occurrences(file, root.view()), 0U);
    }
    ASSERT_TRUE(run("dirty").dirtyNext);
    order("hang");
    RunningMode dirty = capsule->start(options, true);
    dirty.waitForConsole("probe holding", bootTime);
    test::saveMemory(dirty, file, options.memoryMiB);
    EXPECT_EQ(test::occurrences(file, root.view()), 0U);
    dirty.kill();
    EXPECT_THAT(test::filesWith(home->path() / "one", root.view()),
                testing::IsEmpty());
    std::filesystem::remove(file);
}

/** Has the power go as soon as the record on the disk looks like this. */
void cutWhen(Capsule& of,
             const std::function<bool(const machine::SealRecord&)>& when)
{
    const machine::SealStore store = sealStoreOf(of);
    RunningMode mode = of.start({});
    for (const Deadline deadline(bootTime); !when(store.read());)
    {
        if (deadline.passed() || mode.ended(Milliseconds(2)))
        {
            break; // what was waited for may be there all the same
        }
    }
    mode.kill();
    ASSERT_TRUE(when(store.read())) << "the enrolment did not get so far";
}

TEST_F(ModesTest, EnrolmentIsFinishedWhenThePowerWentInBetween)
{
    Capsule other = Capsule::create(home->path() / "two", parts());
    other.run({}, false, bootTime);
    const machine::SealStore store = sealStoreOf(other);
    machine::SealRecord record = store.read();
    approveEnrolment(record, approval(), request("two"));
    store.write(record);

    cutWhen(other, [](const machine::SealRecord& it) {
        return it.authorizations.has_value();
    });
    cutWhen(other, [](const machine::SealRecord& it) {
        return it.next.has_value() || it.blob.has_value();
    });
    for (int boots = 0; store.read().request && boots < 2; boots++)
    {
        other.run({}, false, bootTime);
    }
    EXPECT_FALSE(store.read().request);
    const ModeEnd end = other.run({}, false, bootTime);
    EXPECT_EQ(said(end, "secrets").size(), 64U) << end.console;

    // The site enrols it anew: what it was sealed before counts no more.
    record = store.read();
    const auto older = record.blob;
    approveEnrolment(record, approval(), request("two"));
    store.write(record);
    other.run({}, false, bootTime);
    record = store.read();
    ASSERT_TRUE(record.blob && older);
    ASSERT_NE(record.blob->marshal(), older->marshal());
    const auto newest = std::exchange(record.blob, older);
    store.write(record);
    const ModeEnd replayed = other.run({}, false, bootTime);
    EXPECT_THAT(replayed.console, HasSubstr("in force"));
    EXPECT_THAT(replayed.console, Not(HasSubstr("probe secrets")));
    record = store.read();
    record.blob = newest;
    store.write(record);
    const ModeEnd again = other.run({}, false, bootTime);
    EXPECT_EQ(said(again, "secrets").size(), 64U) << again.console;
    EXPECT_NE(said(again, "secrets"), said(end, "secrets"));
}

TEST_F(ModesTest, InstalledDiskHasTheImagesAndEmptyParts)
{
    const std::filesystem::path disk = home->path() / "disk";
    UniqueFd fd = openFile(disk, O_RDWR | O_CREAT);
    ASSERT_EQ(::ftruncate(fd.get(), 320 * mebibyte), 0);
    writeAllAt(fd.get(), Bytes(64, 0xee), espBytes + mebibyte);
    const DiskLayout layout = layoutOf(320 * mebibyte);
    writeTable(disk, layout);
    writeImages(disk, layout, parts().images);

    SpawnOptions options;
    options.argv = {"mtype", "-i",
                    disk.string() + "@@" + std::to_string(layout.esp),
                    "::/EFI/BOOT/BOOTX64.EFI"};
    const ProcessOutput image =
        runProgram(options, std::chrono::minutes(1), 64U << 20);
    const Bytes clean = readFile(parts().images.clean, 64U << 20);
    EXPECT_EQ(image.out.size(), clean.size());
    EXPECT_TRUE(std::equal(clean.begin(), clean.end(), image.out.begin(),
                           image.out.end(), [](std::uint8_t a, char b) {
                               return a == static_cast<std::uint8_t>(b);
                           }));
    options.argv = {"/sbin/sfdisk", "--json", disk};
    const std::string table = runProgram(options).out;
    for (const char* label :
         {"airlock-esp", "airlock-seal", "airlock-kept", "airlock-staging"})
    {
        EXPECT_THAT(table, HasSubstr(label));
    }
    // What was there before is no record.
    EXPECT_TRUE(machine::SealStore(disk, layout.seal).read().log.empty());
    EXPECT_THROW(layoutOf(200 * mebibyte), Refused);
}

// The last one: the first image's time is over then.
TEST_F(ModesTest, NewImageUnsealsWithAPredictedPolicyOnly)
{
    const std::filesystem::path next = images() / "second" / "clean.efi";
    const machine::SealStore store = sealStoreOf(*capsule);
    machine::SealRecord record = store.read();
    ASSERT_EQ(record.policies.size(), 1U);
    const Bytes log = record.log;

    // Validly signed for Secure Boot, approved by nobody.
    capsule->replaceImages({next, images() / "dirty.efi"});
    EXPECT_THAT(run("off").console, HasSubstr("no policy fits"));

    record = store.read();
    record.policies.push_back(approveUpdate(
        *siteKey, log, images() / "clean.efi", next, "second", 2));
    record.retireOld = true;
    store.write(record);
    const ModeEnd updated = run("off");
    EXPECT_EQ(said(updated, "secrets"), secrets()) << updated.console;

    // The old one has a policy too, but its time is over.
    capsule->replaceImages({images() / "clean.efi", images() / "dirty.efi"});
    EXPECT_THAT(run("off").console,
                HasSubstr("the oldest that may unseal is 2"));

    capsule->replaceImages({next, images() / "dirty.efi"});
    EXPECT_EQ(said(run("off"), "secrets"), secrets());
}

} // namespace
} // namespace airlock::capsule
