#include "bootsrv/capsule/enrol.hpp"

#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/sealed_identity.hpp"
#include "common/file.hpp"
#include "trust/event_log.hpp"
#include "trust/uki.hpp"

namespace airlock::capsule
{

namespace
{

constexpr std::size_t maxText = 1U << 20;

trust::PcrValues sealedOf(const trust::PcrValues& all)
{
    trust::PcrValues out;
    for (unsigned pcr : machine::sealedPcrs().list())
    {
        // A PCR that nobody extended is zeros.
        const auto found = all.find(pcr);
        out[pcr] = found == all.end() ? Digest{} : found->second;
    }
    return out;
}

trust::Uki readImage(const std::filesystem::path& file)
{
    return trust::Uki::parse(readFile(file, trust::Uki::maxSize),
                             file.filename().string());
}

void requireEnd(const ModeEnd& end, const char* what)
{
    constexpr std::size_t shown = 4000;
    if (end.timedOut || !end.status.ok())
    {
        const std::size_t from =
            end.console.size() > shown ? end.console.size() - shown : 0;
        throw Error(std::string("the capsule's boot to ") + what + " " +
                    (end.timedOut ? "took too long" : end.status.describe()) +
                    "; it said: " + end.console.substr(from));
    }
}

Secret addressRootIn(const std::filesystem::path& file)
{
    if (!std::filesystem::exists(file))
    {
        const Secret fresh = Secret::random();
        writeFileAtomic(file, toHex(fresh.view()) + "\n", 0600);
    }
    Bytes text = readFile(file, maxText);
    auto bytes = digestFromHex(asText(text).substr(0, 64));
    wipe(text);
    if (!bytes)
    {
        throw Refused(file.string(), "is not 64 hexadecimal digits");
    }
    const WipeAtEnd wiped(*bytes);
    return Secret(*bytes);
}

} // namespace

SecureBootKeys keysIn(const std::filesystem::path& site)
{
    return {readTextFile(site / "platform.crt", maxText),
            readTextFile(site / "exchange.crt", maxText),
            readTextFile(site / "images.crt", maxText)};
}

machine::EnrolmentRequest requestFrom(const std::string& name,
                                      const std::filesystem::path& addressRoot,
                                      const std::filesystem::path& config)
{
    // What clean mode could not read is better found here.
    const machine::Site site =
        machine::Site::parse(readTextFile(config, maxText), config.string());
    machine::EnrolmentRequest out;
    out.name = name;
    out.addressRoot = addressRootIn(addressRoot);
    out.site = WipedJson(site.toJson());
    return out;
}

machine::SealStore sealStoreOf(const Capsule& capsule)
{
    return machine::SealStore(capsule.dataDisk(), capsule.layout().seal);
}

trust::SignedPolicy approveLog(const trust::Key& siteKey, ByteView log,
                               const std::filesystem::path& cleanImage,
                               const std::string& name,
                               std::uint64_t generation)
{
    // An update to the same image: the state that the log has, when it is that
    // of this image.
    return approveUpdate(siteKey, log, cleanImage, cleanImage, name,
                         generation);
}

void approveEnrolment(machine::SealRecord& record, const Approval& approval,
                      machine::EnrolmentRequest request)
{
    if (record.log.empty() || !record.target)
    {
        throw Refused("seal record",
                      "has no measurements: start the machine from it once");
    }
    record.policies = {approveLog(approval.siteKey, record.log,
                                  approval.cleanImage, request.name,
                                  approval.generation)};
    request.sign(approval.siteKey, approval.generation, *record.target);
    record.request = std::move(request);
    // What an enrolment before did not finish is none of this one's.
    record.next.reset();
}

machine::RotationRequest askForRotation(const machine::SealRecord& record,
                                        const trust::Key& siteKey)
{
    if (!record.blob || !record.target)
    {
        throw Refused("seal record", "is of a machine that is not enrolled");
    }
    return machine::RotationRequest::sign(siteKey, *record.target);
}

trust::SignedPolicy approveUpdate(const trust::Key& siteKey, ByteView log,
                                  const std::filesystem::path& before,
                                  const std::filesystem::path& after,
                                  const std::string& name,
                                  std::uint64_t generation)
{
    const trust::PcrValues predicted = trust::predict(
        trust::EventLog::parse(log), readImage(before), readImage(after));
    return trust::SignedPolicy::sign(
        siteKey, {name, generation, sealedOf(predicted)}, machine::cleanRef);
}

void enrollCapsule(Capsule& capsule, const CapsuleOptions& options,
                   const Approval& approval, machine::EnrolmentRequest request,
                   Milliseconds bootTime)
{
    const machine::SealStore store = sealStoreOf(capsule);
    const ModeEnd measured = capsule.run(options, false, bootTime);
    requireEnd(measured, "measure");
    machine::SealRecord record = store.read();
    if (record.log.empty())
    {
        throw Error("the capsule noted no measurements; it said: " +
                    measured.console);
    }
    approveEnrolment(record, approval, std::move(request));
    store.write(record);
    const ModeEnd enrolled = capsule.run(options, false, bootTime);
    requireEnd(enrolled, "enrol");
    if (!store.read().blob)
    {
        throw Error("the capsule did not enrol; it said: " + enrolled.console);
    }
}

} // namespace airlock::capsule
