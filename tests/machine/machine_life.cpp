#include "tests/machine/machine_life.hpp"

#include "bootsrv/machine/clean_mode.hpp"
#include "bootsrv/machine/dirty_mode.hpp"
#include "bootsrv/machine/quote_prover.hpp"
#include "bootsrv/machine/tpm_anchor.hpp"
#include "bootsrv/qemu_facts.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "trust/sealing.hpp"

#include <csignal>
#include <cstdio>
#include <string_view>

/** One life of a machine, from power-on to power-off, as PID 1 of its images
 * has it: the unsealed secrets come from a file. */
namespace airlock::test
{
namespace
{

std::atomic<bool> stop = false;

void onSignal(int)
{
    stop = true;
}

Secret secretAt(const JsonField& field)
{
    return Secret::key(field);
}

int clean(const JsonField& setup)
{
    auto tpm = std::make_shared<machine::MachineTpm>(setup.at("tcti").string());
    tpm->use([](const trust::Tpm& it) { trust::cap(it); });
    machine::CleanSetup out{
        .kept = setup.at("kept").string(),
        .staging = setup.at("staging").string(),
        .keptKey = secretAt(setup.at("kept-key")),
        .addressRoot = secretAt(setup.at("root")),
        .previousRoot = setup.find("previous-root")
                            ? secretAt(setup.at("previous-root"))
                            : Secret(),
        .anchor = nullptr,
        .nic = setup.at("nic").string(),
        .prove = machine::makeQuoteProver(
            tpm, trust::PcrSelection::parse(setup.at("pcrs").string(), "pcrs")),
        .qemu = boot::askQemu(setup.at("qemu").string()),
        .runtime = setup.at("runtime").string(),
        .powerCycle = {},
        .stop = &stop,
    };
    out.anchor = std::make_shared<machine::TpmAnchor>(tpm, out.keptKey);
    int code = 0;
    out.powerCycle = [&code](machine::Mode next) {
        code = next == machine::Mode::dirty ? lifeToDirty : lifeToClean;
    };
    machine::runCleanMode(out);
    return code;
}

int dirty(const JsonField& setup)
{
    machine::DirtySetup out;
    out.staging = setup.at("staging").string();
    out.work = setup.at("work").string();
    out.boot.bootrun = setup.at("bootrun").string();
    out.boot.qemu = setup.at("qemu").string();
    out.stop = &stop;
    return machine::runDirtyMode(out);
}

int life(std::string_view mode, const char* file)
{
    Json json = parseJson(readTextFile(file, 1U << 20), "setup");
    JsonField setup(json, "setup");
    return mode == "clean" ? clean(setup) : dirty(setup);
}

} // namespace
} // namespace airlock::test

int main(int argc, char** argv)
{
    if (argc != 3)
    {
        return 2;
    }
    std::signal(SIGTERM, airlock::test::onSignal);
    try
    {
        return airlock::test::life(argv[1], argv[2]);
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
