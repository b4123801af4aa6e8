#include "common/file.hpp"
#include "tools/airlock-tpm/commands.hpp"
#include "trust/enroll.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <iterator>

namespace airlock::tpmtool
{

using namespace trust;

namespace
{

PolicySet policySet(const Options& options)
{
    PolicySet out{PolicyKey::fromPem(readText(options.key), options.key),
                  options.ref,
                  {}};
    if (!options.policies.empty())
    {
        out.policies = readPolicies(options.policies);
    }
    return out;
}

/** The file, or the standard input for "-". */
Secret readSecret(const Options& options)
{
    Bytes text;
    if (options.file == "-")
    {
        text.assign(std::istreambuf_iterator<char>(*options.in), {});
    }
    else
    {
        text = readFile(options.file, SealedBlob::maxSecret);
    }
    Secret out{ByteView(text)};
    OPENSSL_cleanse(text.data(), text.size());
    return out;
}

Bytes hexOf(const std::string& text, const char* what)
{
    auto out = fromHex(text);
    if (!out)
    {
        throw Error(std::string(what) +
                    " is not hexadecimal: " + printable(text));
    }
    return *out;
}

} // namespace

Result enroll(const Options& options)
{
    const Tpm tpm(options.tcti);
    const Machine machine =
        enrollMachine(tpm, options.state, policySet(options),
                      options.endorsement == "rsa" ? EndorsementType::rsa2048
                                                   : EndorsementType::eccP256);
    return {machine.toJson(), fmt::format("enrolled; endorsement key {}, {}\n",
                                          toHex(sha256(machine.endorsement)),
                                          machine.endorsementCertificate.empty()
                                              ? "without certificate"
                                              : "with certificate")};
}

Result seal(const Options& options)
{
    const Tpm tpm(options.tcti);
    const PolicySet policy = policySet(options);
    const Secret secret = readSecret(options);
    if (options.pin)
    {
        const Authorizations authorizations =
            readAuthorizations(tpm, options.state, policy);
        storePinned(tpm, options.output, policy, authorizations.owner, secret);
    }
    else
    {
        writeBlob(options.output,
                  trust::seal(tpm, policy.key, policy.ref, secret));
    }
    return {{{"sealed", secret.size()}, {"pinned", options.pin}},
            fmt::format("sealed {} bytes for {}{}\n", secret.size(), policy.ref,
                        options.pin ? ", pinned" : "")};
}

Result unseal(const Options& options)
{
    const Tpm tpm(options.tcti);
    const PolicySet policy = policySet(options);
    const SealedBlob blob =
        options.pin ? loadPinned(tpm, options.file) : readBlob(options.file);
    const Secret secret =
        options.once ? unsealOnce(tpm, blob, policy.key, policy.policies)
                     : trust::unseal(tpm, blob, policy.key, policy.policies);
    return {{{"secret", toHex(secret.view())}},
            {secret.view().begin(), secret.view().end()}};
}

Result cap(const Options& options)
{
    const Tpm tpm(options.tcti);
    trust::cap(tpm, options.pcr);
    return {{{"capped", options.pcr}},
            fmt::format("capped PCR {}\n", options.pcr)};
}

Result pcrs(const Options& options)
{
    const Tpm tpm(options.tcti);
    const Json values =
        toJson(tpm.readPcrs(PcrSelection::parse(options.pcrs, "--pcrs")));
    return {values, pcrText(values)};
}

Result quote(const Options& options)
{
    const Tpm tpm(options.tcti);
    const QuoteContext context{options.role, hexOf(options.nonce, "--nonce"),
                               hexOf(options.channel, "--channel"),
                               options.about};
    const Quote made =
        makeQuote(tpm, PcrSelection::parse(options.pcrs, "--pcrs"),
                  qualifyingData(context));
    const std::string text = dumpJson(made.toJson()) + "\n";
    if (!options.output.empty())
    {
        writeFileAtomic(options.output, text);
        return {made.toJson(), "quoted PCR " + options.pcrs + "\n"};
    }
    return {made.toJson(), text};
}

Result generation(const Options& options)
{
    const Tpm tpm(options.tcti);
    if (options.raise)
    {
        const Authorizations authorizations =
            readAuthorizations(tpm, options.state, policySet(options));
        raiseGeneration(tpm, authorizations.owner, options.generation);
    }
    const std::uint64_t now = trust::generation(tpm);
    return {{{"generation", now}},
            fmt::format("oldest generation that may unseal: {}\n", now)};
}

Result answer(const Options& options)
{
    const Tpm tpm(options.tcti);
    const Credential credential =
        Credential::parse(readHex(options.file), "challenge");
    const Authorizations authorizations =
        readAuthorizations(tpm, options.state, policySet(options));
    const Secret secret =
        activateCredential(tpm, credential, authorizations.endorsement);
    const std::string text = toHex(secret.view()) + "\n";
    writeFileAtomic(options.output, text, 0600);
    return {{{"answered", true}}, "answered\n"};
}

} // namespace airlock::tpmtool
