#pragma once

#include "common/json.hpp"
#include "common/secret.hpp"
#include "trust/policy.hpp"

#include <string>

namespace airlock::machine
{

/** What an enrolment asks of clean mode. It holds a secret, and is gone from
 * the disk when it is done.
 *
 * It waits where dirty mode can write, so it counts only when the site's policy
 * key has signed it, for one TPM and for one time. */
struct EnrolmentRequest
{
    std::string name;   ///< of the machine, for its certificate and logs
    Secret addressRoot; ///< 32 bytes; the switch has them too
    /** Site configuration, for what clean mode keeps; a private key is in it.
     */
    WipedJson site;
    /** Of the policy that it is enrolled under. */
    std::uint64_t generation = 0;
    /** enrolmentTarget() of the machine's TPM. */
    Digest target{};
    Bytes signature; ///< DER (ECDSA) or PKCS#1; empty: nobody signed it

    /** Signs all of the above for this target. */
    void sign(const trust::Key& siteKey, std::uint64_t policyGeneration,
              const Digest& forTarget);
    /** Refused when the key did not sign this. */
    void verify(const trust::PolicyKey& key) const;

    Json toJson() const;
    /** Without a signature too; verify() tells. */
    static EnrolmentRequest parse(const JsonField& field);
};

} // namespace airlock::machine
