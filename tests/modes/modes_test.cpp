#include "bootsrv/capsule/enrol.hpp"
#include "common/epoch_address.hpp"
#include "common/file.hpp"
#include "tests/modes/probe.hpp"
#include "trust/crypto.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

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
    const char* path = std::getenv("AIRLOCK_MODES_IMAGES");
    if (path == nullptr)
    {
        throw Error("AIRLOCK_MODES_IMAGES is not set: run this with "
                    "tools/check --suite modes");
    }
    return path;
}

std::string fileText(const std::filesystem::path& file)
{
    const Bytes data = readFile(file, 1U << 20);
    return {data.begin(), data.end()};
}

/** What the probe said last of this. */
std::string said(const ModeEnd& end, const std::string& what)
{
    const std::string mark = "probe " + what + ": ";
    const std::size_t at = end.console.rfind(mark);
    if (at == std::string::npos)
    {
        return "(nothing; the console ends with: " +
               end.console.substr(
                   end.console.size() -
                   std::min<std::size_t>(end.console.size(), 2000)) +
               ")";
    }
    const std::size_t begin = at + mark.size();
    return end.console.substr(begin,
                              end.console.find_first_of("\r\n", begin) - begin);
}

/** A capsule that is enrolled, kept for all tests: each begins and ends with
 * it switched off, its next mode being clean. */
class ModesTest : public testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        home = std::make_unique<TempDirectory>("modes");
        const std::filesystem::path site = images() / "site";
        siteKey = std::make_unique<trust::Key>(trust::privateKeyFromPem(
            fileText(site / "policy.key"), "policy.key"));
        CapsuleParts parts;
        parts.images = {images() / "clean.efi", images() / "dirty.efi"};
        parts.keys = {fileText(site / "platform.crt"),
                      fileText(site / "exchange.crt"),
                      fileText(site / "images.crt")};
        parts.stagingSize = stagingSize;
        capsule = std::make_unique<Capsule>(
            Capsule::create(home->path() / "one", parts));
        enrollCapsule(*capsule, {}, *siteKey,
                      EnrolmentRequest{
                          "one", trust::Secret(addressRoot().view()), nullptr},
                      1, bootTime);
    }

    static void TearDownTestSuite()
    {
        capsule.reset();
        siteKey.reset();
        home.reset();
    }

    static Secret addressRoot()
    {
        return Secret::from(sha256(Bytes{1, 2, 3}), "root");
    }

    static void order(const std::string& text)
    {
        Bytes sector(probe::orderSize);
        std::copy(text.begin(), text.end(), sector.begin());
        UniqueFd disk = openFile(capsule->dataDisk(), O_WRONLY);
        writeAllAt(disk.get(), sector, capsule->layout().staging);
    }

    static ModeEnd run(const std::string& what, bool dirty = false,
                       const CapsuleOptions& options = {})
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
    EXPECT_THAT(said(dirty, "unseal"), HasSubstr("policy check failed"));
    EXPECT_THAT(said(dirty, "authorizations"),
                HasSubstr("policy check failed"));
    EXPECT_EQ(said(dirty, "network"), " lo");
    EXPECT_THAT(said(dirty, "secure boot"), Not(HasSubstr("it worked")));
    EXPECT_FALSE(dirty.dirtyNext);

    const ModeEnd second = run("off");
    EXPECT_EQ(said(second, "secrets"), secrets);
    EXPECT_FALSE(second.dirtyNext);
}

} // namespace
} // namespace airlock::capsule
