#pragma once

#include "tests/tpm/swtpm.hpp"
#include "tests/unit/error_of.hpp"
#include "trust/sealing.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace airlock::test
{

/** A text as a secret. */
inline Secret secretOf(std::string_view text)
{
    return Secret(asBytes(text));
}

inline std::string textOf(const Secret& secret)
{
    return {secret.view().begin(), secret.view().end()};
}

/** A machine with a software TPM that is enrolled, and a site's policy key.
 * After each test, whatever it did, nothing may be left loaded in the TPM. */
class TpmTest : public testing::Test
{
  protected:
    explicit TpmTest(Swtpm::Certificate certificate = Swtpm::Certificate::none)
        : swtpm(certificate)
    {
        connect();
    }

    void TearDown() override
    {
        if (!tpm)
        {
            connect();
        }
        EXPECT_THAT(tpm->handles(TPM2_TRANSIENT_FIRST), testing::IsEmpty());
        EXPECT_THAT(tpm->handles(TPM2_LOADED_SESSION_FIRST),
                    testing::IsEmpty());
    }

    void connect() { tpm.emplace(swtpm.tcti()); }

    trust::Machine enroll()
    {
        return trust::createKeys(*tpm, trust::EndorsementType::eccP256,
                                 nullptr);
    }

    /** What firmware does as it starts an image. */
    void measure(unsigned pcr, std::string_view what)
    {
        TPML_DIGEST_VALUES values{};
        values.count = 1;
        values.digests[0].hashAlg = TPM2_ALG_SHA256;
        const Digest digest = sha256(asBytes(what));
        std::copy(digest.begin(), digest.end(),
                  values.digests[0].digest.sha256);
        trust::check(Esys_PCR_Extend(tpm->get(), ESYS_TR_PCR0 + pcr,
                                     ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                     ESYS_TR_NONE, &values),
                     "extend");
    }

    /** A power cycle, and firmware that measures this image. */
    void boot(std::string_view image)
    {
        tpm.reset();
        swtpm.restart();
        connect();
        measure(0, "firmware");
        measure(4, image);
        measure(11, image);
    }

    trust::PcrValues now() const { return tpm->readPcrs(selection); }

    /** The site approves the present state. */
    trust::SignedPolicy approve(const std::string& name,
                                std::uint64_t generation = 1,
                                const std::string& ref = "clean")
    {
        return trust::SignedPolicy::sign(siteKey, {name, generation, now()},
                                         ref);
    }

    Swtpm swtpm;
    std::optional<trust::Tpm> tpm;
    trust::PcrSelection selection{0, 2, 4, 7, 9, 11, 12, 13};
    trust::Key siteKey = trust::makeKey();
    trust::PolicyKey policyKey = trust::PolicyKey::of(siteKey);
};

} // namespace airlock::test
