// First process of the clean image.
#include "bootsrv/machine/clean_mode.hpp"
#include "bootsrv/machine/init.hpp"
#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/quote_prover.hpp"
#include "bootsrv/machine/roots.hpp"
#include "bootsrv/machine/tpm_anchor.hpp"
#include "common/file.hpp"

using namespace airlock;

namespace
{

constexpr const char* qemuFile = "/etc/airlock/qemu.json";
constexpr auto diskTime = std::chrono::seconds(30);

/** What the image's maker noted of the QEMU in the dirty image. */
std::optional<boot::QemuFacts> qemuFacts()
{
    if (!std::filesystem::exists(qemuFile))
    {
        return std::nullopt;
    }
    const Json json = parseJson(readTextFile(qemuFile, 1U << 20), qemuFile);
    return boot::QemuFacts::parse(JsonField(json, qemuFile));
}

void work(machine::CleanParts& parts)
{
    const auto anchor =
        std::make_shared<machine::TpmAnchor>(parts.tpm, parts.identity.keptKey);
    machine::CleanSetup setup{
        parts.kept,
        parts.staging,
        std::move(parts.identity.keptKey),
        std::move(parts.identity.addressRoot),
        std::move(parts.identity.previousRoot),
        anchor,
        parts.nic,
        machine::makeQuoteProver(parts.tpm, machine::sealedPcrs()),
        qemuFacts(),
        "/run/airlock",
        parts.powerCycle,
        nullptr};
    machine::runCleanMode(setup);
}

/** The site's configuration is the first that is kept. */
void enrol(const std::shared_ptr<machine::MachineTpm>& tpm, const Secret& owner,
           const machine::EnrolmentRequest& request,
           const machine::SealedIdentity& identity)
{
    const machine::Site site =
        machine::Site::parse(JsonField(request.site.json, "site"));
    tpm->use([&](const trust::Tpm& it) {
        machine::TpmAnchor::define(it, owner, identity.keptKey);
    });
    machine::DeviceBlocks blocks(
        machine::findPartition(machine::keptLabel, diskTime));
    machine::installKept(
        blocks, identity.keptKey,
        std::make_shared<machine::TpmAnchor>(tpm, identity.keptKey), site);
}

/** What is kept knows whether the switch has the present root. */
bool mayRotate(const trust::Tpm& tpm, const machine::SealedIdentity& now)
{
    machine::DeviceBlocks blocks(
        machine::findPartition(machine::keptLabel, diskTime));
    const std::shared_ptr<const trust::Tpm> shared(&tpm, [](const auto*) {});
    const machine::Kept kept(
        blocks, now.keptKey,
        std::make_shared<machine::TpmAnchor>(shared, now.keptKey));
    return machine::switchHas(kept.get(), now.addressRoot, now.previousRoot);
}

} // namespace

int main()
{
    machine::cleanInit(enrol, work, mayRotate);
}
