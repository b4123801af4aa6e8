#include "tests/tpm/tpm_fixture.hpp"
#include "tests/unit/cli_outcome.hpp"
#include "tests/unit/event_log_writer.hpp"
#include "tools/airlock-tpm/cli.hpp"
#include "trust/enroll.hpp"
#include "trust/quote_reference.hpp"

#include <sstream>

namespace airlock::tpmtool
{
namespace
{

using test::Outcome;
using testing::HasSubstr;

/** The command as an operator of a site and of its machines uses it. */
class TpmCommand : public test::TpmTest
{
  protected:
    TpmCommand()
    {
        boot("clean 1");
        writeFileAtomic(path("site.key"), trust::privateKeyPem(siteKey), 0600);
        writeFileAtomic(path("site.pub"), policyKey.pem());
        writeFileAtomic(path("secret"), std::string_view("02:11:22:33:44:55"));
        std::filesystem::create_directory(path("state"));
    }

    std::string path(const std::string& name) const
    {
        return swtpm.directory() / name;
    }

    /** One connection at a time: ours is closed meanwhile. */
    Outcome command(std::vector<std::string> words,
                    const std::string& input = "")
    {
        tpm.reset();
        words.insert(words.begin(), "airlock-tpm");
        std::istringstream in(input);
        Outcome out = test::runCommand(
            words, [&in](int argc, const char* const* argv, std::ostream& said,
                         std::ostream& err) {
                return run(argc, argv, in, said, err);
            });
        connect();
        return out;
    }

    static std::string textOf(const std::string& file)
    {
        return readTextFile(file, 1U << 20);
    }

    std::string good(std::vector<std::string> words)
    {
        const Outcome outcome = command(std::move(words));
        EXPECT_EQ(outcome.code, kOk) << outcome.err;
        return outcome.out;
    }

    std::vector<std::string> with(std::vector<std::string> words)
    {
        words.insert(words.end(), {"--tcti", swtpm.tcti()});
        return words;
    }

    void approve(const std::string& name, const std::string& generation = "1")
    {
        writeFileAtomic(path("pcrs"),
                        good(with({"pcrs", "--json", "--pcrs", "0,4,7,11"})));
        good({"sign-policy", "--key", path("site.key"), "--pcr-file",
              path("pcrs"), "--name", name, "--generation", generation,
              "--append", "-o", path("policies")});
    }

    std::vector<std::string> enrollment()
    {
        return with({"enroll", "--state", path("state"), "--key",
                     path("site.pub"), "--policies", path("policies"), "--ek",
                     "ecc"});
    }
    std::vector<std::string> sealing(const std::string& to)
    {
        return with({"seal", "--key", path("site.pub"), "-o", path(to),
                     path("secret")});
    }
    std::vector<std::string> unsealing(const std::string& from)
    {
        return with({"unseal", "--key", path("site.pub"), "--policies",
                     path("policies"), path(from)});
    }
    static std::vector<std::string> plus(std::vector<std::string> words,
                                         std::vector<std::string> more)
    {
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
};

TEST_F(TpmCommand, WholeLifeOfABootHost)
{
    approve("clean 1");
    EXPECT_THAT(good(enrollment()), HasSubstr("enrolled"));
    EXPECT_TRUE(trust::hardening(*tpm).all());
    good(enrollment()); // again

    good(plus(sealing("mac"), {"--pin", "--state", path("state"), "--policies",
                               path("policies")}));
    EXPECT_EQ(good(plus(unsealing("mac"), {"--pinned", "--once"})),
              "02:11:22:33:44:55");
    EXPECT_EQ(command(unsealing("mac")).code, kRefused);

    // It proves its state to somebody without a TPM.
    const std::string nonce(64, 'a');
    good(with({"quote", "--pcrs", "0,4,7,11", "--nonce", nonce, "--about",
               "port 1", "-o", path("quote")}));
    std::vector<std::string> verify = {
        "verify",     "--machine", path("state/machine.json"),
        "--nonce",    nonce,       "--pcr-file",
        path("pcrs"), "--about",   "port 1",
        path("quote")};
    EXPECT_EQ(command(verify).code, kRefused); // it was capped
    EXPECT_THAT(good(plus(verify, {"--capped"})), HasSubstr("good"));
    // A quote without PCR 11 shows nothing of the cap.
    good(with({"quote", "--pcrs", "0,4,7", "--nonce", nonce, "--about",
               "port 1", "-o", path("partial")}));
    std::vector<std::string> partial = verify;
    partial.back() = path("partial");
    EXPECT_THAT(command(plus(partial, {"--pcrs", "0,4,7", "--capped"})).err,
                HasSubstr("PCR 11 is not among the values"));
    verify[4] = std::string(64, 'b');
    const Outcome refused = command(plus(verify, {"--capped", "--json"}));
    EXPECT_EQ(refused.code, kRefused);
    EXPECT_EQ(parseJson(refused.out, "out")["verdict"], "refused");

    // Update: the new image is approved, the old generation locked out.
    boot("clean 2");
    approve("clean 2", "2");
    EXPECT_EQ(good(plus(unsealing("mac"), {"--pinned"})), "02:11:22:33:44:55");
    EXPECT_THAT(
        good(with({"generation", "--raise", "2", "--state", path("state"),
                   "--policies", path("policies"), "--key", path("site.pub")})),
        HasSubstr("unseal: 2"));
    boot("clean 1");
    EXPECT_THAT(command(unsealing("mac")).err,
                HasSubstr("generation 1, the oldest"));
}

TEST_F(TpmCommand, EnrolmentGoesOnAfterAPowerCut)
{
    approve("clean 1");
    good(enrollment());
    // The blob with the authorizations is gone, or they are somebody else's.
    std::filesystem::rename(path("state/authorizations.sealed"),
                            path("elsewhere"));
    EXPECT_THAT(command(enrollment()).err, HasSubstr("is missing"));
    std::filesystem::rename(path("elsewhere"),
                            path("state/authorizations.sealed"));
    good(enrollment());
    // In a state that nobody approved they stay sealed.
    boot("dirty 1");
    EXPECT_EQ(command(enrollment()).code, kRefused);
}

TEST_F(TpmCommand, BlobWrittenBeforeTheAuthorizationsWereSetIsReplaced)
{
    approve("clean 1");
    writeFileAtomic(path("state/authorizations.sealed"),
                    std::string_view("half"));
    good(enrollment());
    good(enrollment());
}

TEST_F(TpmCommand, SecretFromStandardInput)
{
    approve("clean 1");
    good(enrollment());
    std::vector<std::string> words = sealing("blob");
    words[words.size() - 3] = "-"; // the file
    EXPECT_EQ(command(words, "by pipe").code, kOk);
    EXPECT_EQ(good(unsealing("blob")), "by pipe");
    EXPECT_EQ(
        parseJson(good(plus(unsealing("blob"), {"--json"})), "out")["secret"],
        toHex(test::secretOf("by pipe").view()));
    // All that fits, and one byte more.
    const std::string most(64U << 10, 'x');
    EXPECT_EQ(command(words, most).code, kOk);
    EXPECT_EQ(good(unsealing("blob")), most);
    EXPECT_EQ(command(words, most + "x").code, kRefused);
}

TEST_F(TpmCommand, OnceCapsWhateverHappens)
{
    approve("clean 1");
    good(enrollment());
    good(sealing("blob"));
    writeFileAtomic(path("no policies"), std::string_view("{"));
    writeFileAtomic(path("no key"), std::string_view("none"));
    // A missing blob, one that is not in force, files that are none.
    std::vector<std::string> badPolicies = unsealing("blob");
    badPolicies[4] = path("no policies");
    std::vector<std::string> badKey = unsealing("blob");
    badKey[2] = path("no key");
    for (const auto& words :
         {unsealing("missing"), plus(unsealing("blob"), {"--pinned"}),
          badPolicies, badKey})
    {
        boot("clean 1");
        EXPECT_EQ(good(unsealing("blob")), "02:11:22:33:44:55");
        EXPECT_NE(command(plus(words, {"--once"})).code, kOk);
        EXPECT_THAT(command(unsealing("blob")).err, HasSubstr("PCR 11: have"));
    }
}

TEST_F(TpmCommand, SealsForTheTpmOfTheEnrolmentOnly)
{
    approve("clean 1");
    good(enrollment());
    good(plus(sealing("blob"), {"--state", path("state")}));
    EXPECT_EQ(good(unsealing("blob")), "02:11:22:33:44:55");
    const std::filesystem::path file = path("state/machine.json");
    Json machine = Json::parse(readTextFile(file, 1U << 16));
    machine["storage-name"] = "000b" + std::string(64, 'a');
    writeFileAtomic(file, dumpJson(machine));
    EXPECT_THAT(command(plus(sealing("blob"), {"--state", path("state")})).err,
                HasSubstr("not the one of the enrolment"));
}

/** A log alone is believed; with the values of the boot it is checked. */
TEST_F(TpmCommand, LogHasToBeOfTheBootWithTheValues)
{
    approve("clean 1"); // leaves "pcrs"
    test::LogWriter log;
    log.event(0, "firmware").event(4, "clean 1").event(11, "clean 1");
    writeFileAtomic(path("log"), log.data());
    log.event(4, "what was not measured");
    writeFileAtomic(path("forged"), log.data());
    auto signing = [&](const std::string& from, const std::string& list) {
        return std::vector<std::string>{
            "sign-policy", "--key", path("site.key"), "--pcr-file",
            path("pcrs"),  "--log", path(from),       "--name",
            "x",           "-o",    path("signed"),   "--pcrs",
            list};
    };
    good(signing("log", "0,4,7,11"));
    EXPECT_THAT(command(signing("forged", "0,4,7,11")).err,
                HasSubstr("is not of the boot"));
    // What the file leaves out is not taken for zeros.
    EXPECT_THAT(command(signing("log", "0,4,9,11")).err,
                HasSubstr("has no PCR 9"));
    EXPECT_THAT(command({"sign-policy", "--key", path("site.key"), "--pcr-file",
                         path("pcrs"), "--name", "x", "-o", path("signed"),
                         "--pcrs", "9,11"})
                    .err,
                HasSubstr("has no PCR 9"));
}

/** What is locked out of a TPM that must not be cleared is lost. */
TEST_F(TpmCommand, NobodyLocksAMachineOut)
{
    approve("clean 1");
    boot("clean 2");
    EXPECT_EQ(command(enrollment()).code, kRefused);
    EXPECT_TRUE(trust::hardening(*tpm).none()); // nothing was set
    boot("clean 1");
    good(enrollment());
    // Generations for which nothing is signed, or nothing that fits.
    auto raising = [&](const std::string& to) {
        return with({"generation", "--raise", to, "--state", path("state"),
                     "--policies", path("policies"), "--key",
                     path("site.pub")});
    };
    EXPECT_THAT(command(raising("70")).err,
                HasSubstr("generation 1, the oldest that may unseal is 70"));
    boot("clean 2");
    approve("clean 2", "2");
    boot("clean 1");
    EXPECT_EQ(command(raising("2")).code, kRefused);
    EXPECT_EQ(trust::generation(*tpm), 0U);
    boot("clean 2");
    good(raising("2"));
}

TEST_F(TpmCommand, EnrolmentWithoutPoliciesSaysThatNobodyTried)
{
    std::vector<std::string> words = enrollment();
    std::erase(words, "--policies");
    std::erase(words, path("policies"));
    EXPECT_THAT(good(words), HasSubstr("warning"));
}

TEST_F(TpmCommand, AMachineIsAdmittedForQuotes)
{
    approve("clean 1");
    std::string machine = good(plus(enrollment(), {"--json"}));
    std::string digest =
        toHex(sha256(trust::Machine::parse(
                         JsonField(parseJson(machine, "machine"), "machine"))
                         .endorsement));
    auto challenge = [&](const std::string& ek) {
        return command({"challenge", "--machine", path("state/machine.json"),
                        "--ek-digest", ek, "--candidate", path("candidate"),
                        "-o", path("challenge")});
    };
    EXPECT_EQ(challenge(std::string(64, '0')).code, kRefused);
    EXPECT_EQ(challenge(digest).code, kOk);
    good(with({"answer", "--state", path("state"), "--key", path("site.pub"),
               "--policies", path("policies"), "-o", path("answer"),
               path("challenge")}));
    std::vector<std::string> admit = {
        "admit",      "--candidate",  path("candidate"),
        "--answer",   path("answer"), "--pcr-file",
        path("pcrs"), "--name",       "clean 1",
        "--capped",   "-o",           path("key")};
    good(admit);
    trust::QuoteReference known =
        trust::QuoteReference::parse(textOf(path("key")));
    EXPECT_EQ(known.states.at(0).name, "clean 1");
    // Another state needs no other answer.
    good({"admit", "--append", "--pcr-file", path("pcrs"), "--name", "clean 2",
          "--capped", "-o", path("key")});
    EXPECT_EQ(trust::QuoteReference::parse(textOf(path("key"))).states.size(),
              2U);
    // An answer is good for one question.
    EXPECT_EQ(command(admit).code, kFailed);
    EXPECT_EQ(challenge(digest).code, kOk);
    EXPECT_EQ(command(admit).code, kRefused);
    EXPECT_EQ(command({"admit", "--pcr-file", path("pcrs"), "--name", "x", "-o",
                       path("other")})
                  .code,
              kFailed);
    // What was noted is what a verifier needs.
    good(with({"cap"}));
    const trust::Quote quote = trust::makeQuote(
        *tpm, trust::PcrSelection::of(known.states.at(0).pcrs), Digest{7});
    trust::QuoteExpectation expected;
    expected.extraData = Digest{7};
    expected.pcrs = known.states.at(0).pcrs;
    EXPECT_NO_THROW(trust::verifyQuote(known.key, quote, expected));
}

TEST_F(TpmCommand, CapShutsIt)
{
    approve("clean 1");
    good(enrollment());
    good(sealing("blob"));
    EXPECT_EQ(command(with({"cap", "--pcr", "16"})).code, kRefused);
    good(with({"cap"}));
    EXPECT_THAT(command(unsealing("blob")).err, HasSubstr("PCR 11: have"));
}

TEST_F(TpmCommand, ErrorsSayWhatToDo)
{
    EXPECT_THAT(command(sealing("blob")).err, HasSubstr("airlock-tpm enroll"));
    EXPECT_EQ(command({"unseal"}).code, kFailed);
    EXPECT_EQ(command({"sign-policy", "--key", path("site.key"), "--name", "x",
                       "-o", path("p")})
                  .code,
              kFailed);
    EXPECT_EQ(command({"verify", "--machine", path("none"), "--nonce", "zz",
                       path("quote")})
                  .code,
              kFailed);
    EXPECT_EQ(command({"pcrs", "--pcrs", "0", "--tcti", "nothing:at-all"}).code,
              kFailed);
}

} // namespace
} // namespace airlock::tpmtool
