#include "bootsrv/capsule/capsule.hpp"
#include "bootsrv/machine/kept.hpp"
#include "common/qmp.hpp"
#include "tests/capsules/fake_capsule.hpp"
#include "tests/modes/probe.hpp"
#include "tests/switch/switch_rig.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <thread>

// Two capsules with real firmware, TPMs and first processes, behind fences,
// made and kept at work by the real program; only the work of their modes is
// the test's. See tests/suites/capsule-pool.sh for the images.

namespace airlock::capsule
{
namespace
{

using testing::HasSubstr;
using testing::Not;

/** Under TCG, two at once, on a busy machine. */
constexpr auto bootTime = std::chrono::minutes(10);
constexpr auto step = std::chrono::milliseconds(500);

std::filesystem::path images()
{
    const char* path = std::getenv("AIRLOCK_CAPSULE_IMAGES");
    if (path == nullptr)
    {
        throw Error("AIRLOCK_CAPSULE_IMAGES is not set: run this with "
                    "tools/check --suite capsule-pool");
    }
    return path;
}

class PoolTest : public testing::Test
{
  protected:
    PoolTest()
    {
        std::filesystem::permissions(home.path(),
                                     static_cast<std::filesystem::perms>(0755));
        network.enter();
        for (const char* tap : {"tap1", "tap2"})
        {
            runTool({"ip", "tuntap", "add", tap, "mode", "tap"});
            runTool({"ip", "link", "set", tap, "addrgenmode", "none"});
        }
        // What it says is not looked at: the work is the test's.
        machine::Site site;
        site.tls = {"certificate", "key", "authorities"};
        writeFileAtomic(home.path() / "site.json", dumpJson(site.toJson()));
        writeFileAtomic(config, configText());
    }

    std::string configText() const
    {
        const std::string at = home.path().string();
        const std::string from = images().string();
        std::string out = "state-directory = '" + at + "/state'\n" +
                          "socket = '" + at + "/socket'\n" +
                          "user = 'nobody'\n"
                          "[machine]\naccelerator = 'tcg'\n"
                          "[images]\nclean = '" +
                          from + "/clean.efi'\n" + "dirty = '" + from +
                          "/dirty.efi'\n" + "keys = '" + from + "/site'\n";
        for (const char* number : {"1", "2"})
        {
            out += std::string("[[capsule]]\nname = 'c") + number +
                   "'\ntap = 'tap" + number + "'\nstaging = 32\nsite = '" + at +
                   "/site.json'\n";
        }
        return out;
    }

    SpawnOptions command(std::vector<std::string> words) const
    {
        SpawnOptions out;
        out.argv = {AIRLOCK_BOOTD, "capsule"};
        out.argv.insert(out.argv.end(), words.begin(), words.end());
        out.argv.insert(out.argv.end(), {"--config", config});
        return out;
    }

    /** A kernel under TCG on a busy machine may find that its timer does not
     * work; what is not there is made by the next try. */
    void make()
    {
        for (int tries = 0; tries < 4; tries++)
        {
            const ProcessOutput output =
                runProgram(command({"make", "--policy-key",
                                    images() / "site" / "policy.key",
                                    "--boot-time", "600"}),
                           4 * bootTime);
            std::printf("%s%s", output.out.c_str(), output.err.c_str());
            if (output.status.ok())
            {
                return;
            }
        }
        FAIL() << "the capsules were not made";
    }

    std::filesystem::path directory(const std::string& name) const
    {
        return home.path() / "state" / name;
    }

    void order(const std::string& name, const std::string& text) const
    {
        const Capsule capsule(directory(name));
        Bytes sector(probe::orderSize);
        std::copy(text.begin(), text.end(), sector.begin());
        UniqueFd disk = openFile(capsule.stagingDisk(), O_WRONLY);
        writeAllAt(disk.get(), sector, capsule.layout().staging);
    }

    Json status(const std::string& name) const
    {
        const Json all =
            parseJson(runTool(command({"list", "--json"})), "list");
        for (const Json& it : all.at("capsules"))
        {
            if (it.at("name") == name)
            {
                return it;
            }
        }
        throw Error("no capsule " + name);
    }

    std::string console(const std::string& name) const
    {
        return readTextFile(directory(name) / "console", 2U << 20);
    }

    /** What the probe said of this in the present life. */
    std::string said(const std::string& name, const std::string& what) const
    {
        const std::string text = console(name);
        const std::string mark = "probe " + what + ": ";
        const std::size_t at = text.rfind(mark);
        if (at == std::string::npos)
        {
            return "";
        }
        const std::size_t begin = at + mark.size();
        return text.substr(begin, text.find_first_of("\r\n", begin) - begin);
    }

    bool waitFor(const std::function<bool()>& what) const
    {
        for (const Deadline deadline(bootTime); !deadline.passed();)
        {
            if (what())
            {
                return true;
            }
            std::this_thread::sleep_for(step);
        }
        return false;
    }

    /** Ends the capsule's QEMU. */
    void pullOut(const std::string& name) const
    {
        try
        {
            QmpClient::connect(directory(name) / "qmp.sock").execute("quit");
        }
        catch (const Error&)
        {
            // It may be gone before it has answered.
        }
    }

    bool waitSaid(const std::string& name, const std::string& what) const
    {
        return waitFor([&] { return !said(name, what).empty(); });
    }

    TempDirectory home{"pool"};
    std::filesystem::path config = home.path() / "capsules.toml";
    airlock::test::NetNamespace network;
};

TEST_F(PoolTest, TwoCapsulesAtWorkSideBySide)
{
    ASSERT_NO_FATAL_FAILURE(make());
    for (const char* name : {"c1", "c2"})
    {
        ASSERT_TRUE(std::filesystem::exists(directory(name)));
        ASSERT_TRUE(std::filesystem::exists(home.path() / "state" /
                                            (std::string(name) + ".root")));
    }
    order("c1", "dirty network unseal hang");
    order("c2", "hold");

    SpawnOptions options = command({"serve"});
    Process service(options);
    ASSERT_TRUE(waitFor(
        [&] { return std::filesystem::exists(home.path() / "socket"); }));

    // One stays clean while the other one has a job.
    ASSERT_TRUE(waitSaid("c2", "holding")) << console("c2");
    const std::string second = said("c2", "secrets");
    EXPECT_EQ(second.size(), 64U) << console("c2");
    EXPECT_EQ(status("c2")["state"], "clean");
    ASSERT_TRUE(waitSaid("c1", "attack unseal")) << console("c1");
    EXPECT_EQ(status("c1")["state"], "dirty");
    EXPECT_EQ(said("c1", "network"), " lo");
    // There is no TPM that it could ask.
    EXPECT_THAT(said("c1", "attack unseal"), Not(HasSubstr("it worked")));
    EXPECT_THAT(said("c1", "attack unseal"), HasSubstr("tpm"));
    // It hangs, until its power goes; then it is clean again.
    order("c1", "hold");
    pullOut("c1");
    ASSERT_TRUE(waitFor([&] { return status("c1")["state"] == "clean"; }));
    ASSERT_TRUE(waitSaid("c1", "holding")) << console("c1");
    const std::string first = said("c1", "secrets");
    EXPECT_EQ(first.size(), 64U) << console("c1");
    EXPECT_NE(first, second);
    EXPECT_EQ(status("c1")["runs"], 1);
    const std::uint64_t failures = status("c1")["failures"];
    const std::uint64_t starts = status("c2")["starts"];

    // One fails: it comes back as it was, and the other one goes on.
    pullOut("c1");
    ASSERT_TRUE(
        waitFor([&] { return status("c1")["failures"] == failures + 1; }));
    EXPECT_THAT(status("c1")["reason"].get<std::string>(),
                HasSubstr("clean mode ended"));
    ASSERT_TRUE(waitFor([&] { return status("c1")["state"] == "clean"; }));
    ASSERT_TRUE(waitSaid("c1", "holding")) << console("c1");
    EXPECT_EQ(said("c1", "secrets"), first);
    EXPECT_EQ(status("c2")["starts"], starts);
    EXPECT_EQ(status("c2")["state"], "clean");
    std::printf("%s", runTool(command({"list"})).c_str());

    // The site wants a new root: the next start has it, and another address.
    const std::string address = said("c1", "address");
    SpawnOptions rotate;
    rotate.argv = {AIRLOCK_BOOTD, "rotate", "--policy-key",
                   images() / "site" / "policy.key", directory("c1")};
    runTool(rotate);
    pullOut("c1");
    ASSERT_TRUE(waitFor([&] {
        const std::string now = said("c1", "secrets");
        return !now.empty() && now != first;
    })) << console("c1");
    EXPECT_THAT(console("c1"), HasSubstr("This machine has a new root"));
    ASSERT_TRUE(waitSaid("c1", "address"));
    EXPECT_NE(said("c1", "address"), address);

    EXPECT_EQ(service.terminate(std::chrono::minutes(1)).code, 0);
    // Nothing of them is left: they can be had.
    CapsuleOptions nothing;
    nothing.qemu = test::script(home.path() / "qemu", "exit 0");
    for (const char* name : {"c1", "c2"})
    {
        Capsule capsule(directory(name));
        EXPECT_NO_THROW(capsule.run(nothing, true, std::chrono::minutes(1)));
    }
}

} // namespace
} // namespace airlock::capsule
