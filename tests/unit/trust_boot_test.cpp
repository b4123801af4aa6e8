#include "common/file.hpp"
#include "error_of.hpp"
#include "tests/unit/event_log_writer.hpp"
#include "tests/unit/uki_writer.hpp"
#include "trust/policy.hpp"
#include "trust/sealed_blob.hpp"
#include "trust/uki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

namespace airlock::trust
{
namespace
{

using test::bytesOf;
using test::errorOf;
using test::hashOf;
using test::image;
using test::logOf;
using test::LogWriter;
using test::PeWriter;
using test::Writer;
using testing::HasSubstr;

TEST(EventLogTest, ReplaysEachPcr)
{
    const PcrValues values =
        LogWriter().event(0, "a").event(4, "b").event(0, "c").parse().replay();
    ASSERT_EQ(values.size(), 2U);
    EXPECT_EQ(values.at(0),
              extended(extended(Digest{}, hashOf("a")), hashOf("c")));
    EXPECT_EQ(values.at(4), extended(Digest{}, hashOf("b")));
}

TEST(EventLogTest, NoActionIsInNoPcrButSetsTheLocality)
{
    std::string locality("StartupLocality\0\3", 17);
    const EventLog log = LogWriter()
                             .event(0, 3, Digest{}, locality)
                             .event(0xffffffff, 3, Digest{}, "vendor's")
                             .event(0, "a")
                             .parse();
    Digest start{};
    start.back() = 3;
    EXPECT_EQ(log.replay().at(0), extended(start, hashOf("a")));
    EXPECT_FALSE(log.events()[1].measured);
}

TEST(EventLogTest, DataIsToldFromDigest)
{
    // What an attacker writes about an event is not what was measured.
    const EventLog log = LogWriter()
                             .event(4, "the real one")
                             .event(4, 0x80000003, hashOf("evil"), "harmless")
                             .parse();
    EXPECT_TRUE(log.events()[0].dataMatches);
    EXPECT_FALSE(log.events()[1].dataMatches);
    EXPECT_EQ(
        log.replay().at(4),
        extended(extended(Digest{}, hashOf("the real one")), hashOf("evil")));
}

TEST(EventLogTest, HostileOnesAreRefused)
{
    auto refusal = [](const LogWriter& log) {
        return errorOf([&] { log.parse(); });
    };
    LogWriter good;
    good.event(4, "a");
    EXPECT_EQ(refusal(good), "");
    for (std::size_t size = 0; size < good.data().size(); ++size)
    {
        const bool headerOnly = size == LogWriter().data().size();
        EXPECT_EQ(errorOf([&] {
                      EventLog::parse(ByteView(good.data()).first(size));
                  }).empty(),
                  headerOnly)
            << size;
    }
    EXPECT_THAT(refusal(LogWriter().event(24, "a")), HasSubstr("PCR 24"));
    EXPECT_THAT(refusal(LogWriter().event(0xffffffff, "a")),
                HasSubstr("event 1: PCR"));
    LogWriter none;
    none.raw().le32(4).le32(1).le32(0).le32(0);
    EXPECT_THAT(refusal(none), HasSubstr("there is no SHA-256 digest"));
    LogWriter twice;
    twice.raw().le32(4).le32(1).le32(2);
    for (int i = 0; i < 2; ++i)
    {
        twice.raw().le16(wire::algSha256).bytes(Digest{});
    }
    twice.raw().le32(0);
    EXPECT_THAT(refusal(twice), HasSubstr("two SHA-256 digests"));
    LogWriter many;
    many.raw().le32(4).le32(1).le32(0xffffffff);
    EXPECT_THAT(refusal(many), HasSubstr("digests, the header has fewer"));
    LogWriter unknown;
    unknown.raw().le32(4).le32(1).le32(1).le16(0xc).bytes(Bytes(48)).le32(0);
    EXPECT_THAT(refusal(unknown), HasSubstr("the header does not have"));
    LogWriter large;
    large.raw().le32(4).le32(1).le32(1).le16(wire::algSha256).bytes(Digest{});
    large.raw().le32(0xffffffff);
    EXPECT_THAT(refusal(large), HasSubstr("are left"));
    EXPECT_THAT(errorOf([] { EventLog::parse(Bytes((4U << 20) + 1)); }),
                HasSubstr("more than 4 MiB"));
}

TEST(EventLogTest, OldFormIsNamed)
{
    Writer old; // SHA-1 events from the start
    old.le32(0).le32(8).bytes(Bytes(20)).le32(2).text("ab");
    EXPECT_THAT(errorOf([&] { EventLog::parse(old.data()); }),
                HasSubstr("not crypto agile"));
    Writer spec;
    spec.le32(0).le32(3).bytes(Bytes(20)).le32(16).text("Spec ID Event02");
    spec.le(0, 1);
    EXPECT_THAT(errorOf([&] { EventLog::parse(spec.data()); }),
                HasSubstr("SHA-1 only"));
}

TEST(EventLogTest, TooManyEventsAreRefused)
{
    LogWriter log;
    for (std::size_t i = 0; i <= EventLog::maxEvents; ++i)
    {
        log.event(4, "");
    }
    EXPECT_THAT(errorOf([&] { log.parse(); }),
                HasSubstr("more than 16384 events"));
}

Digest expectedPcr11(const std::string& version)
{
    PeWriter kernel;
    kernel.sections = {{".text", bytesOf("kernel " + version)}};
    Digest out{};
    for (const auto& [name, data] :
         std::vector<std::pair<std::string_view, Bytes>>{
             {std::string_view(".linux\0", 7), kernel.write()},
             {std::string_view(".osrel\0", 7), bytesOf("ID=airlock")},
             {std::string_view(".cmdline\0", 9), bytesOf("mode=clean")},
             {std::string_view(".initrd\0", 8), bytesOf("initrd " + version)}})
    {
        out = extended(extended(out, hashOf(name)), sha256(data));
    }
    return out;
}

TEST(UkiTest, AuthenticodeLeavesOutWhatASignatureChanges)
{
    PeWriter writer = image("1");
    const Bytes plain = writer.write();
    const Digest digest = Uki::parse(plain, "uki").authenticode();
    Bytes hashed = plain;
    auto erase = [&](std::size_t at, std::size_t size) {
        auto begin = hashed.begin() + static_cast<std::ptrdiff_t>(at);
        hashed.erase(begin, begin + static_cast<std::ptrdiff_t>(size));
    };
    erase(PeWriter::certificateAt, 8);
    erase(PeWriter::checksumAt, 4);
    EXPECT_EQ(digest, sha256(hashed));
    writer.checksum = 0x12345678;
    writer.certificates = Bytes(64, 5);
    EXPECT_EQ(Uki::parse(writer.write(), "uki").authenticode(), digest);
    // Every other byte counts.
    for (std::size_t at : {0x10UL, 0x200UL, 0x401UL, plain.size() - 1})
    {
        Bytes changed = plain;
        changed[at] ^= 1;
        EXPECT_NE(Uki::parse(changed, "uki").authenticode(), digest) << at;
    }
}

TEST(UkiTest, Pcr11FollowsFromTheSections)
{
    EXPECT_EQ(Uki::parse(image("1").write(), "uki").pcr11(),
              expectedPcr11("1"));
    // The order in the file does not matter, the stub has its own; sections
    // that it does not know are not measured.
    PeWriter other = image("1");
    std::reverse(other.sections.begin(), other.sections.end());
    other.sections.push_back({".reloc", Bytes(10)});
    EXPECT_EQ(Uki::parse(other.write(), "uki").pcr11(), expectedPcr11("1"));
}

TEST(UkiTest, OlderStubsMeasureFewerSections)
{
    PeWriter writer = image("1");
    writer.sections.push_back({".uname", bytesOf("6.1.0")});
    writer.sections.push_back({".sbat", bytesOf("sbat")});
    const Digest all = Uki::parse(writer.write(), "uki").pcr11();
    EXPECT_NE(all, expectedPcr11("1"));
    const auto pcr11With = [&writer](const char* stub) {
        PeWriter with = writer;
        with.sections.push_back({".sdmagic", bytesOf(stub)});
        return Uki::parse(with.write(), "uki").pcr11();
    };
    EXPECT_EQ(pcr11With("#### LoaderInfo: systemd-stub 252.39-1 ####"),
              expectedPcr11("1"));
    for (const char* stub :
         {"#### LoaderInfo: systemd-stub 254.5-1 ####", "systemd-stub 257",
          "systemd-stub 99999999999", "systemd-stub ", "another stub", ""})
    {
        EXPECT_EQ(pcr11With(stub), all) << stub;
    }
}

TEST(UkiTest, SectionsAreAsInMemory)
{
    PeWriter writer;
    writer.sections = {{".osrel", bytesOf("abc"), 6},
                       {".cmdline", bytesOf("quiet"), 3}};
    const Bytes file = writer.write();
    const Uki uki = Uki::parse(file, "uki");
    EXPECT_EQ(uki.section(".osrel"), bytesOf(std::string_view("abc\0\0\0", 6)));
    EXPECT_EQ(uki.section(".cmdline"), bytesOf("qui"));
}

TEST(UkiTest, StrangeImagesAreRefused)
{
    auto refusal = [](const PeWriter& writer) {
        return errorOf([&] { Uki::parse(writer.write(), "uki"); });
    };
    PeWriter writer = image("1");
    writer.sections.push_back({".osrel", Bytes(3)});
    EXPECT_THAT(refusal(writer), HasSubstr("two sections .osrel"));
    writer = image("1");
    writer.sections.push_back({".profile", Bytes(3)});
    EXPECT_THAT(refusal(writer), HasSubstr("depends on the machine"));
    writer = image("1");
    writer.sections.push_back({".splash", Bytes(3), 1U << 30});
    EXPECT_THAT(refusal(writer), HasSubstr("larger than the file"));
    const Bytes good = image("1").write();
    for (std::size_t size = 0; size < good.size(); size += 37)
    {
        EXPECT_NE(
            errorOf([&] { Uki::parse(ByteView(good).first(size), "uki"); }), "")
            << size;
    }
    Bytes overlap = good;
    // The second section's place becomes the first one's.
    const std::size_t table = 0x80 + 24 + 240;
    overlap[table + 40 + 20 + 1] = overlap[table + 20 + 1];
    EXPECT_THAT(errorOf([&] { Uki::parse(overlap, "uki"); }),
                HasSubstr("overlap"));
}

TEST(PredictTest, NextImagesPcrsAreKnownBeforeItRuns)
{
    const Bytes one = image("1").write();
    const Bytes two = image("2").write();
    const PcrValues predicted = predict(
        logOf("1").parse(), Uki::parse(one, "one"), Uki::parse(two, "two"));
    EXPECT_EQ(predicted, logOf("2").parse().replay());
    EXPECT_NE(predicted, logOf("1").parse().replay());
    EXPECT_EQ(predicted.at(11), expectedPcr11("2"));
}

TEST(PredictTest, LogOfAnotherImageIsRefused)
{
    const Bytes one = image("1").write();
    const Bytes two = image("2").write();
    EXPECT_THAT(errorOf([&] {
                    predict(logOf("2").parse(), Uki::parse(one, "one"),
                            Uki::parse(two, "two"));
                }),
                HasSubstr("not taken with the old image"));
    EXPECT_THAT(errorOf([&] {
                    predict(logOf("1", false).parse(), Uki::parse(one, "one"),
                            Uki::parse(two, "two"));
                }),
                HasSubstr("PCR 11 of the log"));
}

TEST(PcrTest, SelectionsAreReadAndWritten)
{
    const PcrSelection selection = PcrSelection::parse("0,2,11", "pcrs");
    EXPECT_EQ(selection.text(), "0,2,11");
    EXPECT_EQ(selection, (PcrSelection{11, 2, 0}));
    EXPECT_EQ(selection.marshal(),
              (Bytes{0, 0, 0, 1, 0, 0x0b, 3, 0x05, 0x08, 0x00}));
    for (const char* bad : {"", "a", "1,", ",1", "24", "-1", "1 ", "0x1"})
    {
        EXPECT_THROW(PcrSelection::parse(bad, "pcrs"), Refused) << bad;
    }
}

TEST(PcrTest, OnlyStaticOnesCanBeSealedTo)
{
    for (unsigned pcr = 0; pcr < pcrCount; ++pcr)
    {
        EXPECT_EQ(
            errorOf([&] { PcrSelection{pcr}.requireSealable("pcrs"); }).empty(),
            pcr <= 15)
            << pcr;
    }
    EXPECT_THROW(PcrSelection{}.requireSealable("pcrs"), Refused);
}

class PolicyTest : public testing::Test
{
  protected:
    SignedPolicy make(const std::string& ref = "clean")
    {
        return SignedPolicy::sign(
            key, {"image 1", 3, {{4, hashOf("4")}, {11, hashOf("11")}}}, ref);
    }

    Key key = makeKey();
};

TEST_F(PolicyTest, SignatureCoversAllThatDecides)
{
    const PolicyKey publicKey = PolicyKey::of(key);
    make().verify(publicKey);
    for (auto change : std::vector<void (*)(SignedPolicy&)>{
             [](SignedPolicy& p) { p.ref = "dirty"; },
             [](SignedPolicy& p) { p.state.generation = 4; },
             [](SignedPolicy& p) { p.state.pcrs[4][0] ^= 1; },
             [](SignedPolicy& p) { p.state.pcrs.erase(11); },
             [](SignedPolicy& p) { p.state.pcrs[12] = Digest{}; },
             [](SignedPolicy& p) { p.signature[9] ^= 1; },
             [](SignedPolicy& p) { p.signature.clear(); }})
    {
        SignedPolicy changed = make();
        change(changed);
        EXPECT_THROW(changed.verify(publicKey), Refused);
    }
    EXPECT_THROW(make().verify(PolicyKey::of(makeKey())), Refused);
    // The public half in a file is the same key.
    EXPECT_EQ(PolicyKey::fromPem(publicKey.pem(), "key").name(),
              publicKey.name());
}

TEST_F(PolicyTest, KeyAndTagMakeThePolicy)
{
    const PolicyKey one = PolicyKey::of(key);
    const PolicyKey other = PolicyKey::of(makeKey());
    EXPECT_NE(authorizedPolicy(one, "clean"), authorizedPolicy(one, "dirty"));
    EXPECT_NE(authorizedPolicy(one, "clean"), authorizedPolicy(other, "clean"));
    EXPECT_THROW(authorizedPolicy(one, ""), Refused);
    EXPECT_THROW(authorizedPolicy(one, "Clean"), Refused);
    EXPECT_THROW(authorizedPolicy(one, std::string(33, 'a')), Refused);
}

TEST_F(PolicyTest, FilesAreReadBackAndBadOnesRefused)
{
    TempDirectory directory;
    const auto path = directory.path() / "policies";
    writePolicies(path, {make("clean"), make("dirty")});
    const std::vector<SignedPolicy> read = readPolicies(path);
    ASSERT_EQ(read.size(), 2U);
    EXPECT_EQ(read[1].toJson()["ref"], "dirty");
    read[0].verify(PolicyKey::of(key));

    Json good = {{"version", 1}, {"policies", {make().toJson()}}};
    auto refusal = [](const Json& json) {
        return errorOf([&] { parsePolicies(dumpJson(json), "file"); });
    };
    EXPECT_EQ(refusal(good), "");
    for (const char* patch :
         {R"([{"op":"replace","path":"/version","value":2}])",
          R"([{"op":"add","path":"/more","value":2}])",
          R"([{"op":"replace","path":"/policies/0/ref","value":"a b"}])",
          R"([{"op":"replace","path":"/policies/0/generation","value":-1}])",
          R"([{"op":"replace","path":"/policies/0/signature","value":"x"}])",
          R"([{"op":"replace","path":"/policies/0/pcrs","value":{}}])",
          R"([{"op":"remove","path":"/policies/0/pcrs/11"}])",
          R"([{"op":"add","path":"/policies/0/pcrs/16","value":"00"}])",
          R"([{"op":"add","path":"/policies/0/pcrs/1x","value":"00"}])",
          R"([{"op":"remove","path":"/policies/0/name"}])"})
    {
        EXPECT_NE(refusal(good.patch(Json::parse(patch))), "") << patch;
    }
    Json reset = good;
    reset["policies"][0]["pcrs"]["23"] = toHex(Digest{});
    EXPECT_THAT(refusal(reset), HasSubstr("can be reset"));
    Json twice = good;
    twice["policies"][0]["pcrs"]["04"] = toHex(Digest{});
    EXPECT_THAT(refusal(twice), HasSubstr("is there twice"));
}

/** Without PCR 11 a cap changes nothing, neither in the TPM nor in a quote. */
TEST_F(PolicyTest, EachPolicyCanBeEndedByACap)
{
    const PcrValues without = {{4, hashOf("4")}};
    EXPECT_THAT(errorOf([&] {
                    SignedPolicy::sign(key, {"image 1", 3, without}, "clean");
                }),
                HasSubstr("PCR 11 is missing"));
    EXPECT_THAT(errorOf([&] { capped(without); }),
                HasSubstr("PCR 11 is not among the values"));
    PcrValues with = without;
    with[11] = hashOf("11");
    EXPECT_NE(capped(with).at(11), with.at(11));
    EXPECT_EQ(capped(with).at(4), with.at(4));
}

TEST_F(PolicyTest, KeysThatATpmDoesNotTakeAreRefused)
{
    for (const char* text : {"", "-----BEGIN PUBLIC KEY-----\nx\n"})
    {
        EXPECT_THROW(PolicyKey::fromPem(text, "key"), Refused);
    }
    EXPECT_THROW(privateKeyFromPem(publicKeyPem(key), "key"), Refused);
}

TEST(GcmTest, OpensOnlyWhatItSealed)
{
    const Secret secret = Secret::random();
    const Bytes plain = bytesOf("text");
    const Bytes head = bytesOf("head");
    const GcmBox box = gcmSeal(secret, head, plain);
    EXPECT_TRUE(gcmOpen(secret, head, box, "box").equals(plain));
    EXPECT_THROW(gcmOpen(Secret::random(), head, box, "box"), Refused);
    EXPECT_THROW(gcmOpen(secret, plain, box, "box"), Refused);
    GcmBox changed = box;
    changed.tag[0] ^= 1;
    EXPECT_THROW(gcmOpen(secret, head, changed, "box"), Refused);
    EXPECT_THROW(gcmSeal(Secret::random(16), head, plain), Error);
}

} // namespace
} // namespace airlock::trust
