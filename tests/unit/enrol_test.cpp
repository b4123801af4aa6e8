#include "bootsrv/capsule/enrol.hpp"
#include "common/file.hpp"
#include "tests/unit/uki_writer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::capsule
{
namespace
{

using test::hashOf;
using test::image;
using test::logOf;
using test::LogWriter;
using testing::HasSubstr;

/** The site's side of an enrolment, with the record of a machine's disk. */
class EnrolTest : public testing::Test
{
  protected:
    EnrolTest()
    {
        writeFileAtomic(clean, image("clean").write());
        record.target = hashOf("target");
    }

    std::string approve(const Bytes& log)
    {
        record.log = log;
        machine::EnrolmentRequest wanted;
        wanted.name = "boot1";
        wanted.addressRoot = Secret(32);
        try
        {
            approveEnrolment(record, {key, clean, 3}, std::move(wanted));
            return "";
        }
        catch (const Refused& refused)
        {
            return refused.what();
        }
    }

    TempDirectory home;
    std::filesystem::path clean = home.path() / "clean.efi";
    trust::Key key = trust::makeKey();
    machine::SealRecord record;
};

TEST_F(EnrolTest, LogOfTheSitesImageIsApprovedAsItIs)
{
    const LogWriter log = logOf("clean");
    ASSERT_EQ(approve(log.data()), "");
    const trust::PolicyKey publicKey = trust::PolicyKey::of(key);
    ASSERT_EQ(record.policies.size(), 1U);
    const trust::SignedPolicy& policy = record.policies[0];
    policy.verify(publicKey);
    EXPECT_EQ(policy.state.generation, 3U);
    for (const auto& [pcr, value] : log.parse().replay())
    {
        EXPECT_EQ(policy.state.pcrs.at(pcr), value) << pcr;
    }
    record.request->verify(publicKey);
    EXPECT_EQ(record.request->target, hashOf("target"));
    EXPECT_EQ(record.request->generation, 3U);
}

TEST_F(EnrolTest, LogsThatDirtyModeLeftAreNotApproved)
{
    EXPECT_THAT(approve(logOf("dirty").data()),
                HasSubstr("PCR 4 does not have it"));
    // Its own start, with the image of clean mode written into the log.
    const Bytes file = image("clean").write();
    const Digest digest = trust::Uki::parse(file, "clean").authenticode();
    LogWriter mixed = logOf("dirty");
    mixed.event(4, 0x80000003, digest, "path");
    EXPECT_THAT(approve(mixed.data()), HasSubstr("PCR 11 of the log"));
    // A start of clean mode from which somebody went on.
    LogWriter longer = logOf("clean");
    longer.event(11, "more");
    EXPECT_THAT(approve(longer.data()), HasSubstr("PCR 11 of the log"));
    EXPECT_TRUE(record.policies.empty());
    EXPECT_FALSE(record.request);
}

TEST_F(EnrolTest, MachineThatHasNotMeasuredItselfIsNotAsked)
{
    EXPECT_THAT(approve({}), HasSubstr("start the machine from it once"));
    record.target.reset();
    EXPECT_THAT(approve(logOf("clean").data()),
                HasSubstr("start the machine from it once"));
}

} // namespace
} // namespace airlock::capsule
