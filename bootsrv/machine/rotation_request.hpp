#pragma once

#include "common/json.hpp"
#include "trust/policy.hpp"

namespace airlock::machine
{

/** Asks clean mode for a new root of its addresses. There is nothing secret in
 * it: the machine draws the root, and tells the switch itself.
 *
 * It waits where dirty mode can write, so it counts only when the site's policy
 * key has signed it, for one TPM and for one time. */
struct RotationRequest
{
    /** enrolmentTarget() of the machine's TPM. */
    Digest target{};
    Bytes signature; ///< DER (ECDSA) or PKCS#1

    static RotationRequest sign(const trust::Key& siteKey,
                                const Digest& target);
    /** Refused when the key did not sign this. */
    void verify(const trust::PolicyKey& key) const;

    Json toJson() const;
    static RotationRequest parse(const JsonField& field);
};

} // namespace airlock::machine
