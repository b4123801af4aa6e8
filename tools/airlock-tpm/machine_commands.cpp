#include "common/file.hpp"
#include "tools/airlock-tpm/commands.hpp"
#include "trust/enroll.hpp"

#include <fmt/format.h>

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

/** In one place that does not grow; the stream keeps a buffer of its own. */
Secret readStream(std::istream& in)
{
    Secret room(SealedBlob::maxSecret + 1);
    in.read(reinterpret_cast<char*>(room.bytes().data()),
            static_cast<std::streamsize>(room.size()));
    const auto size = static_cast<std::size_t>(in.gcount());
    if (size > SealedBlob::maxSecret)
    {
        throw Refused("standard input", "has more than 65536 bytes");
    }
    return Secret(room.view().first(size));
}

/** The file, or the standard input for "-". */
Secret readSecret(const Options& options)
{
    if (options.file == "-")
    {
        return readStream(*options.in);
    }
    Bytes text = readFile(options.file, SealedBlob::maxSecret);
    Secret out{ByteView(text)};
    wipe(text);
    return out;
}

} // namespace

Result enroll(const Options& options)
{
    const Tpm tpm(options.tcti);
    const Machine machine =
        enrollMachine(tpm, options.state, policySet(options),
                      options.endorsement == "rsa" ? EndorsementType::rsa2048
                                                   : EndorsementType::eccP256);
    return {machine.toJson(),
            fmt::format("enrolled; endorsement key {}, {}\n{}",
                        toHex(sha256(machine.endorsement)),
                        machine.endorsementCertificate.empty()
                            ? "without certificate"
                            : "with certificate",
                        options.policies.empty()
                            ? "warning: without --policies nobody has tried "
                              "whether the authorizations come out again\n"
                            : "")};
}

Result seal(const Options& options)
{
    const Tpm tpm(options.tcti);
    const PolicySet policy = policySet(options);
    const Secret secret = readSecret(options);
    // Where the enrolment is at hand, the TPM has to be that one.
    const Bytes enrolled = options.state.empty()
                               ? Bytes()
                               : readMachineFile(options.state).storageName;
    const auto storageName =
        enrolled.empty() ? std::nullopt : std::optional<ByteView>(enrolled);
    if (options.pin)
    {
        const Authorizations authorizations =
            readAuthorizations(tpm, options.state, policy);
        storePinned(tpm, options.output, policy, authorizations.owner, secret,
                    storageName);
    }
    else
    {
        writeBlob(options.output, trust::seal(tpm, policy.key, policy.ref,
                                              secret, storageName));
    }
    return {{{"sealed", secret.size()}, {"pinned", options.pin}},
            fmt::format("sealed {} bytes for {}{}\n", secret.size(), policy.ref,
                        options.pin ? ", pinned" : "")};
}

Result unseal(const Options& options)
{
    const Tpm tpm(options.tcti);
    const auto unsealing = [&] {
        const PolicySet policy = policySet(options);
        const SealedBlob blob = options.pin ? loadPinned(tpm, options.file)
                                            : readBlob(options.file);
        return trust::unseal(tpm, blob, policy.key, policy.policies);
    };
    const Secret secret =
        options.once ? unsealOnce(tpm, unsealing) : unsealing();
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
        raiseGeneration(tpm, options.state, policySet(options),
                        options.generation);
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
