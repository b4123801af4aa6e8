#include "bootsrv/config.hpp"
#include "config_case.hpp"
#include "manual_page.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::boot
{
namespace
{

using testing::HasSubstr;

class BootdConfig : public test::ConfigCase<readConfig>
{
  protected:
    BootdConfig() : ConfigCase("bootd.toml") {}
};

TEST_F(BootdConfig, anEmptyFileIsAllDefaults)
{
    Config config = read("");
    EXPECT_EQ(config.port, 7420);
    EXPECT_EQ(config.parallel, 2U);
    EXPECT_EQ(config.quota.tries, 3U);
    EXPECT_EQ(config.boot.hide, config.stateDirectory);
}

TEST_F(BootdConfig, valuesArriveWhereTheyBelong)
{
    Config config = read("listen = '127.0.0.1'\n"
                         "port = 1234\n"
                         "state-directory = '/srv/boot'\n"
                         "[tls]\nkey = '/k'\n"
                         "[boot]\nqemu = '/q'\nparallel = 7\nuser = 'x'\n"
                         "[quota]\njobs = 3\nboot-seconds = 60\n"
                         "[limits]\nconnections = 5\n");
    EXPECT_EQ(config.address, "127.0.0.1");
    EXPECT_EQ(config.port, 1234);
    EXPECT_EQ(config.boot.hide, "/srv/boot");
    EXPECT_EQ(config.tls.key, "/k");
    EXPECT_EQ(config.boot.qemu, "/q");
    EXPECT_EQ(config.boot.user, "x");
    EXPECT_EQ(config.parallel, 7U);
    EXPECT_EQ(config.quota.jobs, 3U);
    EXPECT_EQ(config.quota.boot.count(), 60);
    EXPECT_EQ(config.limits.connections, 5U);
}

TEST_F(BootdConfig, unknownKeysAreErrors)
{
    EXPECT_THAT(refusal("lisen = '::'\n"),
                HasSubstr("bootd.toml: line 1: lisen is not known"));
    EXPECT_THAT(refusal("[boot]\nqmeu = '/q'\n"),
                HasSubstr("bootd.toml: line 2: boot.qmeu is not known"));
}

TEST_F(BootdConfig, valuesThatCannotBeUsedAreErrorsWithTheirPlace)
{
    EXPECT_THAT(refusal("port = 70000\n"),
                HasSubstr("bootd.toml: line 1: port"));
    EXPECT_THAT(refusal("port = '7'\n"), HasSubstr("has to be a number"));
    EXPECT_THAT(refusal("\nlisten = 7\n"),
                HasSubstr("bootd.toml: line 2: listen"));
    EXPECT_THAT(refusal("[boot]\nparallel = 0\n"), HasSubstr("boot.parallel"));
    EXPECT_THAT(refusal("[quota]\njobs = -1\n"), HasSubstr("quota.jobs"));
    EXPECT_THAT(refusal("tls = 3\n"), HasSubstr("has to be a table"));
    EXPECT_THAT(refusal("port = \n"), HasSubstr("bootd.toml: line 1: "));
    EXPECT_THROW(readConfig("/nowhere.toml"), Error);
}

/** Every key is in the manual, and every key of the manual is read. */
TEST_F(BootdConfig, theManualHasTheSameKeys)
{
    test::ManualPage page("airlock-bootd.toml.5.rst");
    EXPECT_EQ(page.keys(), configKeys());
    EXPECT_THAT(configKeys(), testing::Contains("quota.jobs"));
    read(page.example());
}

TEST_F(BootdConfig, theManualHasTheSameDefaults)
{
    test::ManualPage page("airlock-bootd.toml.5.rst");
    Config config = read(page.defaults());
    Config plain = read("");
    EXPECT_EQ(config.address, plain.address);
    EXPECT_EQ(config.port, plain.port);
    EXPECT_EQ(config.stateDirectory, plain.stateDirectory);
    EXPECT_EQ(config.metrics, plain.metrics);
    EXPECT_EQ(config.tls.certificate, plain.tls.certificate);
    EXPECT_EQ(config.tls.key, plain.tls.key);
    EXPECT_EQ(config.tls.authorities, plain.tls.authorities);
    EXPECT_EQ(config.boot.qemu, plain.boot.qemu);
    EXPECT_EQ(config.boot.bootrun, plain.boot.bootrun);
    EXPECT_EQ(config.boot.firmware, plain.boot.firmware);
    EXPECT_EQ(config.boot.firmwareDirectory, plain.boot.firmwareDirectory);
    EXPECT_EQ(config.boot.user, plain.boot.user);
    EXPECT_EQ(config.parallel, plain.parallel);
    EXPECT_EQ(config.quota.jobs, plain.quota.jobs);
    EXPECT_EQ(config.quota.jobsPerHost, plain.quota.jobsPerHost);
    EXPECT_EQ(config.quota.jobBytes, plain.quota.jobBytes);
    EXPECT_EQ(config.quota.totalBytes, plain.quota.totalBytes);
    EXPECT_EQ(config.quota.boot, plain.quota.boot);
    EXPECT_EQ(config.quota.keep, plain.quota.keep);
    EXPECT_EQ(config.quota.tries, plain.quota.tries);
    EXPECT_EQ(config.limits.connections, plain.limits.connections);
    EXPECT_EQ(config.limits.connectionsEach, plain.limits.connectionsEach);
}

} // namespace
} // namespace airlock::boot
