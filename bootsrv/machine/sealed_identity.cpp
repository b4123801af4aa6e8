#include "bootsrv/machine/sealed_identity.hpp"

#include "common/file.hpp"
#include "trust/keys.hpp"

#include <fcntl.h>

namespace airlock::machine
{

namespace
{

constexpr const char* logFile =
    "/sys/kernel/security/tpm0/binary_bios_measurements";

Secret join(const SealedIdentity& identity)
{
    return identity.previousRoot.empty()
               ? Secret::join({&identity.addressRoot, &identity.keptKey},
                              Secret::keySize)
               : Secret::join({&identity.addressRoot, &identity.keptKey,
                               &identity.previousRoot},
                              Secret::keySize);
}

SealedIdentity split(const Secret& joined)
{
    constexpr std::size_t size = Secret::keySize;
    if (joined.size() != 2 * size && joined.size() != 3 * size)
    {
        throw Refused("sealed identity", "has not the length of one");
    }
    SealedIdentity out = {
        Secret::key(joined.view().first(size), "address root"),
        Secret::key(joined.view().subspan(size, size), "kept key"),
        {}};
    if (joined.size() == 3 * size)
    {
        out.previousRoot =
            Secret::key(joined.view().last(size), "previous root");
    }
    return out;
}

/** The blob that the TPM has noted as the one in force. */
const trust::SealedBlob& pinnedOf(const trust::Tpm& tpm,
                                  const SealRecord& record)
{
    std::string why = "there is none on the disk";
    for (const auto* blob : {&record.blob, &record.next})
    {
        if (!*blob)
        {
            continue;
        }
        try
        {
            trust::requirePinned(tpm, **blob);
            return **blob;
        }
        catch (const Refused& refused)
        {
            why = refused.reason();
        }
    }
    throw Refused("sealed identity", why);
}

bool isInForce(const trust::Tpm& tpm,
               const std::optional<trust::SealedBlob>& blob)
{
    if (!blob)
    {
        return false;
    }
    try
    {
        trust::requirePinned(tpm, *blob);
        return true;
    }
    catch (const Refused&)
    {
        return false;
    }
}

/** The power went after the TPM had noted the new blob: then what it was asked
 * for is not what it is any more. A copy of the blob in force that somebody put
 * there is no new one. */
bool isAlmostDone(const trust::Tpm& tpm, const SealRecord& record,
                  const Digest& asked)
{
    return asked != enrolmentTarget(tpm) && isInForce(tpm, record.next);
}

void finish(const trust::Tpm& tpm, const SealStore& store, SealRecord& record)
{
    record.blob = std::move(record.next);
    record.next.reset();
    record.request.reset();
    record.rotation.reset();
    record.target = enrolmentTarget(tpm);
    store.overwrite(record);
}

/** Nobody is to enrol a machine whose next start could not unseal, nor under a
 * policy of another time than the request. */
void requireApproved(const trust::Tpm& tpm, const SealRecord& record,
                     const trust::PolicyKey& key)
{
    const trust::PcrValues have = tpm.readPcrs(sealedPcrs());
    std::string why = "there is no signed policy";
    for (const trust::SignedPolicy& policy : record.policies)
    {
        policy.verify(key);
        why = trust::differences(have, policy.state.pcrs);
        if (!why.empty() || policy.ref != cleanRef)
        {
            continue;
        }
        if (policy.state.generation == record.request->generation)
        {
            return;
        }
        why = "the one of this state is of another generation than the request";
    }
    throw Refused("enrolment", "no policy fits this boot: " + why);
}

trust::Authorizations ownTpm(const trust::Tpm& tpm, const SealStore& store,
                             SealRecord& record, const trust::PolicyKey& key)
{
    if (trust::hardening(tpm).none())
    {
        record.machine =
            trust::createKeys(tpm, trust::EndorsementType::eccP256, nullptr);
        trust::Authorizations out = trust::Authorizations::random();
        record.authorizations = trust::seal(tpm, key, cleanRef, out.join());
        store.write(record);
        trust::harden(tpm, out);
        return out;
    }
    if (!record.authorizations)
    {
        throw Refused("enrolment",
                      "authorizations are set in this TPM, and ours are not on "
                      "the disk; clear the TPM in the firmware's menu");
    }
    trust::Authorizations out = trust::Authorizations::split(
        trust::unseal(tpm, *record.authorizations, key, record.policies));
    record.machine =
        trust::createKeys(tpm, trust::EndorsementType::eccP256, &out);
    trust::harden(tpm, out);
    return out;
}

const trust::SealedBlob& authorizationsIn(const SealRecord& record)
{
    if (!record.authorizations)
    {
        throw Refused("seal record", "has no authorizations");
    }
    return *record.authorizations;
}

/** One that does not count is taken off the disk. */
void requireRotation(const trust::Tpm& tpm, const SealStore& store,
                     SealRecord& record, const trust::PolicyKey& key)
try
{
    record.rotation->verify(key);
    if (record.rotation->target != enrolmentTarget(tpm))
    {
        throw Refused("request for a new root",
                      "is for another TPM, or was followed before");
    }
}
catch (const Refused&)
{
    record.rotation.reset();
    store.write(record);
    throw;
}

/** Raises the TPM's number to this image's. It cannot be raised further by
 * whoever wrote the record: that would lock out all. */
void retireOlder(const trust::Tpm& tpm, const SealRecord& record,
                 const trust::PolicyKey& key)
{
    const trust::SealedBlob& sealed = authorizationsIn(record);
    const trust::PcrValues have = tpm.readPcrs(sealedPcrs());
    for (const trust::SignedPolicy& policy : record.policies)
    {
        if (have == policy.state.pcrs &&
            policy.state.generation > trust::generation(tpm))
        {
            policy.verify(key);
            const trust::Authorizations authorizations =
                trust::Authorizations::split(
                    trust::unseal(tpm, sealed, key, record.policies));
            trust::raiseGeneration(tpm, authorizations.owner,
                                   policy.state.generation);
            return;
        }
    }
}

} // namespace

trust::PcrSelection sealedPcrs()
{
    return {0, 2, 4, 7, 9, 11, 12, 13};
}

SealedIdentity unsealIdentity(const trust::Tpm& tpm, const SealRecord& record,
                              const trust::PolicyKey& key)
{
    const trust::SealedBlob* blob = nullptr;
    try
    {
        blob = &pinnedOf(tpm, record);
        if (record.retireOld)
        {
            retireOlder(tpm, record, key);
        }
    }
    catch (const Error&)
    {
        trust::cap(tpm);
        throw;
    }
    return split(trust::unsealOnce(tpm, *blob, key, record.policies));
}

Digest enrolmentTarget(const trust::Tpm& tpm)
{
    constexpr std::string_view label("airlock enrolment target 1\0", 27);
    ByteWriter out;
    out.text(label);
    // It comes from a seed that clearing the TPM replaces.
    out.bytes(trust::storageKey(tpm).name());
    out.bytes(trust::pinned(tpm).value_or(Digest{}));
    return sha256(out.data());
}

void noteTarget(const trust::Tpm& tpm, const SealStore& store,
                SealRecord& record)
{
    if (trust::hardening(tpm).none())
    {
        trust::createKeys(tpm, trust::EndorsementType::eccP256, nullptr);
    }
    const Digest target = enrolmentTarget(tpm);
    if (record.target != target)
    {
        record.target = target;
        store.write(record);
    }
}

void requireWanted(const trust::Tpm& tpm, const EnrolmentRequest& request,
                   const trust::PolicyKey& key)
{
    request.verify(key);
    if (request.target != enrolmentTarget(tpm))
    {
        throw Refused("request to enrol",
                      "is for another TPM, or for a time before this one was "
                      "enrolled or cleared");
    }
    if (request.generation < trust::generation(tpm))
    {
        throw Refused("request to enrol", "is of a generation that is retired");
    }
}

std::string dropUnwanted(const trust::Tpm& tpm, const SealStore& store,
                         SealRecord& record, const trust::PolicyKey& key)
try
{
    if (record.request && (record.blob || record.next) &&
        !isAlmostDone(tpm, record, record.request->target))
    {
        requireWanted(tpm, *record.request, key);
    }
    return "";
}
catch (const Refused& refused)
{
    record.request.reset();
    store.overwrite(record);
    return refused.what();
}

void enrollIdentity(const std::shared_ptr<MachineTpm>& tpm,
                    const SealStore& store, const trust::PolicyKey& key,
                    const EnrolmentStep& step)
{
    SealRecord record = store.read();
    if (!record.request)
    {
        throw Refused("enrolment", "nobody asked for one");
    }

    const bool done = tpm->use([&](const trust::Tpm& it) {
        const bool out = isAlmostDone(it, record, record.request->target);
        if (out)
        {
            finish(it, store, record);
        }
        return out;
    });
    if (done)
    {
        return;
    }

    const trust::Authorizations authorizations =
        tpm->use([&](const trust::Tpm& it) {
            requireWanted(it, *record.request, key);
            requireApproved(it, record, key);
            return ownTpm(it, store, record, key);
        });
    const SealedIdentity identity = {
        Secret::key(record.request->addressRoot.view(), "address root"),
        Secret::random(),
        {}};
    if (step)
    {
        step(tpm, authorizations.owner, *record.request, identity);
    }
    tpm->use([&](const trust::Tpm& it) {
        record.next = trust::seal(it, key, cleanRef, join(identity));
        store.write(record);
        trust::pin(it, authorizations.owner, *record.next);
        finish(it, store, record);
    });
}

std::string rotateRoot(const trust::Tpm& tpm, const SealStore& store,
                       SealRecord& record, const trust::PolicyKey& key,
                       const MayRotate& may)
try
{
    if (!record.rotation)
    {
        return "";
    }
    if (isAlmostDone(tpm, record, record.rotation->target))
    {
        finish(tpm, store, record);
        return "";
    }
    requireRotation(tpm, store, record, key);
    const trust::Authorizations authorizations = trust::Authorizations::split(
        trust::unseal(tpm, authorizationsIn(record), key, record.policies));
    SealedIdentity now =
        split(trust::unseal(tpm, pinnedOf(tpm, record), key, record.policies));
    if (may && !may(tpm, now))
    {
        return "the switch was not told of the root before: it waits";
    }
    const SealedIdentity fresh = {Secret::random(), std::move(now.keptKey),
                                  std::move(now.addressRoot)};
    record.next = trust::seal(tpm, key, cleanRef, join(fresh));
    store.write(record);
    trust::pin(tpm, authorizations.owner, *record.next);
    finish(tpm, store, record);
    return "";
}
catch (const Refused& refused)
{
    return refused.what();
}

Bytes measuredBoot()
{
    if (!std::filesystem::exists(logFile))
    {
        return {};
    }
    UniqueFd fd = openFile(logFile, O_RDONLY);
    return readToEnd(fd.get(), 4U << 20, "log of the measured boot");
}

} // namespace airlock::machine
