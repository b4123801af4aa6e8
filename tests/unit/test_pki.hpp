#pragma once

#include "common/file.hpp"
#include "common/pki.hpp"
#include "common/tls.hpp"

#include <filesystem>
#include <memory>
#include <string>

namespace airlock::test
{

/** A site's authority, with certificates for both ends, in files that go away
 * with the object. */
class TestPki
{
  public:
    TestPki() : authority_(pki::makeAuthority("test-authority"))
    {
        writeFileAtomic(directory_.path() / "ca.pem", authority_.certificate);
    }

    const pki::Credential& authority() const { return authority_; }

    /** Writes a certificate of `issuer`, with this site's authority as the one
     * to accept. */
    tls::Identity identity(const std::string& name, const std::string& role,
                           const pki::Credential& issuer,
                           const pki::Validity& validity = {})
    {
        pki::Credential made = pki::issue(
            issuer, {name, role, {"localhost", "127.0.0.1", "127.0.0.2"}},
            validity);
        std::string file = name + "-" + std::to_string(count_++);
        tls::Identity out;
        out.certificate = directory_.path() / (file + ".pem");
        out.key = directory_.path() / (file + ".key");
        out.authorities = directory_.path() / "ca.pem";
        writeFileAtomic(out.certificate, made.certificate);
        writeFileAtomic(out.key, made.key, 0600);
        return out;
    }

    tls::Identity identity(const std::string& name, const std::string& role)
    {
        return identity(name, role, authority_);
    }

    std::shared_ptr<const tls::Context>
    server(const std::string& name = "boot1")
    {
        return std::make_shared<tls::Context>(identity(name, tls::bootRole),
                                              tls::Context::Side::server);
    }

    std::shared_ptr<const tls::Context>
    client(const std::string& name = "host1")
    {
        return std::make_shared<tls::Context>(identity(name, tls::hostRole),
                                              tls::Context::Side::client);
    }

  private:
    TempDirectory directory_;
    pki::Credential authority_;
    unsigned count_ = 0;
};

} // namespace airlock::test
