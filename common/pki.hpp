#pragma once

#include <chrono>
#include <string>
#include <vector>

/** Certificates of a small site: one authority (CA), and one certificate for
 * each daemon. EC P-256, SHA-256. The keys are not encrypted: whoever writes
 * them to a file sees to its mode. */
namespace airlock::pki
{

/** A certificate with its key, both as PEM. */
struct Credential
{
    std::string certificate;
    std::string key;
};

/** From when to when, counted from now. */
struct Validity
{
    /** An hour back: clocks of a site differ. */
    std::chrono::seconds begin = std::chrono::hours(-1);
    std::chrono::seconds end = std::chrono::hours(24 * 825);
};

/** A self-signed authority. Throws Error. */
Credential makeAuthority(const std::string& name,
                         const Validity& validity = {
                             std::chrono::hours(-1),
                             std::chrono::hours(24 * 3650)});

/** What a certificate is issued for. */
struct Subject
{
    std::string name; ///< common name: who it is, in logs and as job owner
    std::string role; ///< OU: tls::hostRole, tls::bootRole
    /** Host names and IP addresses under which clients reach it. */
    std::vector<std::string> hosts;
};

/** A new key and its certificate, good for both ends of TLS. Throws Error when
 * a name or host cannot be in a certificate. */
Credential issue(const Credential& authority, const Subject& subject,
                 const Validity& validity = {});

} // namespace airlock::pki
