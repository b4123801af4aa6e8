#include "trust/enroll.hpp"

#include "common/file.hpp"

namespace airlock::trust
{

namespace
{

constexpr const char* machineFile = "machine.json";
constexpr const char* authorizationsFile = "authorizations.sealed";

/** Where the next blob waits until the TPM has noted it. */
std::filesystem::path nextTo(std::filesystem::path path)
{
    path += ".next";
    return path;
}

void writeMachine(const std::filesystem::path& directory,
                  const Machine& machine)
{
    writeFileAtomic(directory / machineFile, dumpJson(machine.toJson()) + "\n");
}

/** Files of a moment ago may be half a blob; then it is not the one. */
bool isInForce(const Tpm& tpm, const std::filesystem::path& path)
try
{
    if (!std::filesystem::exists(path))
    {
        return false;
    }
    requirePinned(tpm, readBlob(path));
    return true;
}
catch (const Refused&)
{
    return false;
}

/** What is renamed is on the disk under its new name. */
void moveOver(const std::filesystem::path& from,
              const std::filesystem::path& to)
{
    std::filesystem::rename(from, to);
    syncDirectory(to.has_parent_path() ? to.parent_path() : ".");
}

/** Nothing is set yet: what an earlier try left on the disk is of no use. */
Machine enrollFresh(const Tpm& tpm, const std::filesystem::path& directory,
                    const PolicySet& policy, EndorsementType type)
{
    const Machine out = createKeys(tpm, type, nullptr);
    const Authorizations authorizations = Authorizations::random();
    writeBlob(directory / authorizationsFile,
              seal(tpm, policy.key, policy.ref, authorizations.join()));
    // Once they are set, what does not come out again is lost for good.
    if (!policy.policies.empty() && !readAuthorizations(tpm, directory, policy)
                                         .join()
                                         .equals(authorizations.join().view()))
    {
        throw Refused("enrolment", "the TPM gave other authorizations back");
    }
    harden(tpm, authorizations);
    return out;
}

Machine enrollAgain(const Tpm& tpm, const std::filesystem::path& directory,
                    const PolicySet& policy, EndorsementType type)
{
    if (!std::filesystem::exists(directory / authorizationsFile))
    {
        throw Refused("enrolment",
                      "authorizations are set in this TPM, and " +
                          (directory / authorizationsFile).string() +
                          " with ours is missing; clear the TPM in the "
                          "firmware's menu");
    }
    const Authorizations authorizations =
        readAuthorizations(tpm, directory, policy);
    const Machine out = createKeys(tpm, type, &authorizations);
    harden(tpm, authorizations);
    return out;
}

} // namespace

Machine enrollMachine(const Tpm& tpm, const std::filesystem::path& directory,
                      const PolicySet& policy, EndorsementType type)
{
    const Machine out = hardening(tpm).none()
                            ? enrollFresh(tpm, directory, policy, type)
                            : enrollAgain(tpm, directory, policy, type);
    writeMachine(directory, out);
    return out;
}

Authorizations readAuthorizations(const Tpm& tpm,
                                  const std::filesystem::path& directory,
                                  const PolicySet& policy)
{
    const SealedBlob blob = readBlob(directory / authorizationsFile);
    return Authorizations::split(
        unseal(tpm, blob, policy.key, policy.policies));
}

void raiseGeneration(const Tpm& tpm, const std::filesystem::path& directory,
                     const PolicySet& policy, std::uint64_t value)
{
    requirePolicy(tpm, policy.key, policy.ref, value, policy.policies);
    raiseGeneration(tpm, readAuthorizations(tpm, directory, policy).owner,
                    value);
}

SealedBlob storePinned(const Tpm& tpm, const std::filesystem::path& path,
                       const PolicySet& policy, const Secret& owner,
                       const Secret& secret,
                       std::optional<ByteView> storageName)
{
    // What was interrupted may have left the one in force there; else what is
    // there was never noted, and is of no use.
    if (isInForce(tpm, nextTo(path)))
    {
        moveOver(nextTo(path), path);
    }
    SealedBlob blob = seal(tpm, policy.key, policy.ref, secret, storageName);
    writeBlob(nextTo(path), blob);
    pin(tpm, owner, blob);
    moveOver(nextTo(path), path);
    return blob;
}

Machine readMachineFile(const std::filesystem::path& directory)
{
    constexpr std::size_t most = 64U << 10;
    const Json document = parseJson(readTextFile(directory / machineFile, most),
                                    machineFile, {most, 4});
    return Machine::parse(JsonField(document, machineFile));
}

SealedBlob loadPinned(const Tpm& tpm, const std::filesystem::path& path)
{
    std::string why;
    for (const std::filesystem::path& file : {path, nextTo(path)})
    {
        if (!std::filesystem::exists(file))
        {
            continue;
        }
        try
        {
            SealedBlob blob = readBlob(file);
            requirePinned(tpm, blob);
            return blob;
        }
        catch (const Refused& refused)
        {
            why += (why.empty() ? "" : "; ") + file.filename().string() + " " +
                   refused.reason();
        }
    }
    throw Refused("sealed blob",
                  why.empty() ? path.string() + " is missing" : why);
}

SealedBlob readBlob(const std::filesystem::path& path)
{
    return SealedBlob::parse(readFile(path, SealedBlob::maxSize),
                             path.filename().string());
}

void writeBlob(const std::filesystem::path& path, const SealedBlob& blob)
{
    writeFileAtomic(path, blob.marshal(), 0600);
}

} // namespace airlock::trust
