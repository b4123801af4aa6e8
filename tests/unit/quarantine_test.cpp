#include "common/quarantine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::quarantine
{
namespace
{

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const MacAddress host{{0x02, 1, 2, 3, 4, 5}};

Nonce countingNonce()
{
    Nonce out{};
    for (std::size_t i = 0; i < out.size(); i++)
    {
        out[i] = static_cast<std::uint8_t>(i);
    }
    return out;
}

Bytes written(Message message)
{
    return write({agentAddress, host, std::move(message)});
}

TEST(Quarantine, FramesComeBackAsTheyWere)
{
    Frame parsed = parse(written(Hello{}));
    EXPECT_EQ(parsed.destination, agentAddress);
    EXPECT_EQ(parsed.source, host);
    EXPECT_TRUE(std::holds_alternative<Hello>(parsed.message));
    EXPECT_EQ(written(Hello{}).size(), 60U);
    EXPECT_TRUE(std::holds_alternative<Ask>(parse(written(Ask{})).message));

    auto challenge = std::get<Challenge>(
        parse(written(Challenge{countingNonce(), "boot0"})).message);
    EXPECT_EQ(challenge.nonce, countingNonce());
    EXPECT_EQ(challenge.port, "boot0");

    for (std::size_t size : {std::size_t(0), std::size_t(64), maxProof})
    {
        Bytes bytes(size, 0x5a);
        auto proof = std::get<Proof>(
            parse(written(Proof{countingNonce(), bytes})).message);
        EXPECT_EQ(proof.nonce, countingNonce());
        EXPECT_EQ(proof.bytes, bytes);
    }
    for (bool open : {true, false})
    {
        auto verdict = std::get<Verdict>(
            parse(written(Verdict{countingNonce(), open})).message);
        EXPECT_EQ(verdict.open, open);
    }
}

TEST(Quarantine, RefusesWhatIsNoFrame)
{
    Bytes good = written(Verdict{countingNonce(), true});
    for (std::size_t size = 0; size < good.size() - 6; size++)
    {
        EXPECT_THROW(parse(ByteView(good).first(size)), Refused) << size;
    }
    auto changed = [&](std::size_t at, std::uint8_t value) {
        Bytes out = good;
        out[at] = value;
        return out;
    };
    auto says = [](const char* text) {
        return ThrowsMessage<Refused>(HasSubstr(text));
    };
    EXPECT_THAT([&] { parse(changed(12, 0x08)); }, says("EtherType"));
    EXPECT_THAT([&] { parse(changed(17, '2')); }, says("version"));
    EXPECT_THAT([&] { parse(changed(18, 9)); }, says("type"));
    EXPECT_THAT([&] { parse(changed(18, 0)); }, says("type"));
    EXPECT_THAT([&] { parse(changed(20, 34)); }, says("more than belongs"));
    EXPECT_THAT([&] { parse(changed(20, 32)); }, says("wants"));
    EXPECT_THAT([&] { parse(changed(19, 0xFF)); }, says("wants"));
    EXPECT_THAT([&] { parse(changed(59, 1)); }, says("more than belongs"));
    EXPECT_THAT([&] { parse(changed(53, 2)); }, says("verdict"));
    EXPECT_THAT([&] { parse(Bytes(maxFrame + 1)); }, says("too long"));
    EXPECT_THAT([&] { parse(written(Challenge{{}, ""})); }, says("no port"));
    EXPECT_THAT(
        [&] {
            parse(written(Challenge{{}, "a\nb"}));
        },
        says("no port"));
    EXPECT_THROW(written(Challenge{{}, "sixteen-letters-"}), Error);
    EXPECT_THROW(written(Proof{{}, Bytes(maxProof + 1)}), Error);
}

TEST(Quarantine, AStatementDependsOnAllOfIt)
{
    Digest one = statement("boot0", host, countingNonce());
    EXPECT_NE(statement("boot1", host, countingNonce()), one);
    EXPECT_NE(statement("boot0", agentAddress, countingNonce()), one);
    EXPECT_NE(statement("boot0", host, Nonce{}), one);
}

} // namespace
} // namespace airlock::quarantine
