#include "story.hpp"

#include "common/error.hpp"
#include "common/process.hpp"
#include "common/sha256.hpp"
#include "devmodel/vm/kvm_probe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <thread>

namespace airlock::demo
{

namespace
{

constexpr const char* hostAddress = "192.0.2.1";
constexpr const char* guestAddress = "192.0.2.2";
constexpr const char* guestMac = "52:54:00:a1:0c:01";
constexpr unsigned stepCount = 8;

constexpr Milliseconds coldTime = std::chrono::seconds(30);
constexpr Milliseconds answerTime = std::chrono::minutes(2);
constexpr Milliseconds rebootTime = std::chrono::minutes(5);
constexpr Milliseconds pingTime = std::chrono::seconds(30);
/** Seconds; a guest under TCG corrects its clock by less. */
constexpr double clockSlack = 2;
/** Between two looks at the timers. */
constexpr Milliseconds lifeTime = std::chrono::seconds(2);

std::string randomUuid()
{
    std::array<std::uint8_t, 16> bytes{};
    fillRandom(bytes);
    // RFC 4122, 4.4: version 4, variant 10.
    bytes[6] = static_cast<std::uint8_t>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<std::uint8_t>((bytes[8] & 0x3f) | 0x80);
    std::string hex = toHex(bytes);
    return hex.substr(0, 8) + "-" + hex.substr(8, 4) + "-" + hex.substr(12, 4) +
           "-" + hex.substr(16, 4) + "-" + hex.substr(20);
}

/** The guest writes to its disk; the image stays as it is. */
void copyImage(const std::filesystem::path& from,
               const std::filesystem::path& to)
{
    SpawnOptions options;
    options.argv = {"cp", "--reflink=auto", "--sparse=always", from.string(),
                    to.string()};
    ProcessOutput output = runProgram(options, std::chrono::minutes(30));
    if (!output.status.ok())
    {
        throw Error("cannot copy the guest's image: " + output.err);
    }
}

/** "first life" -> "first-life": markers are named without blanks. */
std::string markerWord(std::string name)
{
    std::replace(name.begin(), name.end(), ' ', '-');
    return name;
}

Json surveyToJson(const vm::Survey& survey)
{
    Json out;
    out["devices"] = survey.devices;
    for (auto [key, ranges] :
         {std::pair("ports", &survey.ports), std::pair("mmio", &survey.mmio)})
    {
        out[key] = Json::array();
        for (const vm::AddressRange& range : *ranges)
        {
            out[key].push_back(
                {{"range", vm::describe(range)}, {"region", range.name}});
        }
    }
    return out;
}

Json trapToJson(const vm::Trap& trap)
{
    Json out = {{"cause", trap.cause}, {"count", trap.count}};
    if (trap.port)
    {
        out["port"] = *trap.port;
        out["value"] = trap.value.value_or(0);
        out["vcpu"] = trap.vcpu;
    }
    return out;
}

} // namespace

Json Outcome::toJson() const
{
    Json out;
    out["held"] = checks.allHeld();
    out["accelerator"] = accelerator;
    out["checks"] = checks.toJson();
    out["lives"] = Json::array();
    for (const Life& life : lives)
    {
        out["lives"].push_back(
            {{"trap", trapToJson(life.trap)}, {"cycle", life.cycle.toJson()}});
    }
    out["boot_machine"] = surveyToJson(full);
    out["production_machine"] = surveyToJson(stripped);
    out["guest"] = guest;
    return out;
}

Story::Story(const Options& options, const ProgressStyle& style,
             const std::filesystem::path& directory)
    : options_(options), style_(style), steps_(stepCount), directory_(directory)
{
    vm::QemuBuilds qemu = vm::findQemuBuilds(options.build);
    productionQemu_ = qemu.production;
    site_.qemu = qemu.boot;
    site_.policy = vm::parseBootedPolicy(options.booted);
    site_.log = directory_ / "boot-qemu.log";
    site_.options.firmware = options.firmware;

    spec_.name = "demo";
    spec_.uuid = randomUuid();
    spec_.vcpus = options.vcpus;
    spec_.memory = options.memory;
    spec_.disks = {{directory_ / "disk.raw", false}};
    spec_.nics = {{guestMac}};
    vm::validate(spec_);
}

bool Story::hasShell() const
{
    return std::holds_alternative<vm::BootedShell>(site_.policy);
}

void Story::chooseAccelerator()
{
    Step step(style_, title("Accelerator"));
    vm::KvmProbe probe{options_.accelerator == "kvm", "as asked for"};
    if (options_.accelerator == "auto")
    {
        step.note("trying KVM with this guest");
        probe = vm::probeKvm(site_.qemu, spec_, options_.build / "kvm.json");
    }
    spec_.accelerator =
        probe.usable ? vm::Accelerator::kvm : vm::Accelerator::tcg;
    outcome_.accelerator = probe.usable ? "kvm" : "tcg";
    step.done(outcome_.accelerator + ": " + printable(probe.why, 60));
}

void Story::prepare()
{
    Step step(style_, title("Copy of the guest's disk, private network"));
    copyImage(options_.guest, spec_.disks.front().image);
    tap_.emplace("airlock0", hostAddress);
    step.done(formatBytes(std::filesystem::file_size(options_.guest)));
}

vm::Trap Story::startCold()
{
    Step step(style_, title("Production machine, started cold"));
    vm::ProductionVm::Options options;
    options.log = directory_ / "production-qemu.log";
    options.taps = {tap_->fd()};
    production_.emplace(productionQemu_, spec_, options);
    vm::Trap trap = production_->waitTrap(coldTime);
    outcome_.checks.add("the cold start is trapped", trap.cause == "cold-start",
                        describe(trap));
    step.done("trapped: " + describe(trap));
    return trap;
}

void Story::writeMarker(vm::GuestShell& shell, const std::string& name)
{
    Json answer = shell.probe("mark " + name, answerTime);
    markers_[name] = JsonField(answer, "airlock-probe").at("sha256").string();
}

vm::CycleReport Story::cycle(const std::string& name)
{
    auto booted = [&](vm::BootVm& boot) {
        outcome_.full = vm::survey(boot.machine().qmp());
        if (hasShell())
        {
            vm::GuestShell shell(boot.machine());
            writeMarker(shell, "booting-" + markerWord(name));
            bootReportTime_ = std::chrono::steady_clock::now();
            bootReport_ = shell.settled(answerTime);
        }
    };
    return vm::bootAndHandOver(*production_, site_, booted);
}

void Story::live(const vm::Trap& trap, const std::string& name)
{
    {
        Step step(style_, title("Full machine boots the guest, hand-over"));
        site_.progress = [&step](const std::string& what) { step.note(what); };
        vm::CycleReport report = cycle(name);
        const vm::HandOverReport& moved = report.handOver;
        step.done(fmt::format(
            "{} of {} sections and {} of memory in {}", moved.kept.size(),
            moved.kept.size() + moved.dropped.size(),
            formatBytes(moved.memory.bytes()),
            formatDuration(std::chrono::duration<double>(moved.seconds()))));
        outcome_.lives.push_back({trap, std::move(report)});
        site_.progress = {};
    }
    Step step(style_, title("The guest on the production machine"));
    outcome_.stripped = vm::survey(production_->machine().qmp());
    if (hasShell())
    {
        lookAround(name);
    }
    outcome_.checks.add(name + ": the machine runs",
                        production_->machine().running(), "query-status");
    step.done(hasShell() ? "it answers" : "it runs");
}

void Story::lookAround(const std::string& name)
{
    vm::GuestShell shell(production_->machine());
    shell.checkDisk(answerTime);
    Json first = shell.probe("report", answerTime);
    std::chrono::duration<double> passed =
        std::chrono::steady_clock::now() - bootReportTime_;
    double uptime = first.at("uptime").get<double>() -
                    bootReport_.at("uptime").get<double>();
    outcome_.checks.add(
        name + ": the guest's clock did not jump",
        uptime <= passed.count() + clockSlack,
        fmt::format("{:.1f} s of uptime in {:.1f} s", uptime, passed.count()));
    std::this_thread::sleep_for(lifeTime);
    writeMarker(shell, "living-" + markerWord(name));
    outcome_.guest = shell.settled(answerTime);
    outcome_.checks.addLife(name, bootReport_, first, outcome_.guest,
                            spec_.vcpus);
    outcome_.checks.addMarkers(markers_, outcome_.guest);
    checkNetwork(name, outcome_.guest);
}

void Story::checkNetwork(const std::string& name, const Json& report)
{
    JsonField links = JsonField(report, "airlock-probe").at("network");
    bool carrier =
        links.arraySize() == 1 && links.element(0).at("carrier").u64() == 1;
    outcome_.checks.add(name + ": the network has a carrier", carrier,
                        fmt::format("{} link(s)", links.arraySize()));
    // A user's own image has its own address.
    if (options_.guest.parent_path() == options_.build / "images")
    {
        outcome_.checks.add(name + ": the host reaches the guest",
                            vm::ping(guestAddress, pingTime),
                            std::string("ping ") + guestAddress);
    }
}

vm::Trap Story::rebootFromInside()
{
    Step step(style_, title("Reboot from inside"));
    if (hasShell())
    {
        vm::GuestShell(production_->machine()).reboot();
    }
    else
    {
        production_->machine().qmp().execute("system_reset");
    }
    vm::Trap trap = production_->waitTrap(rebootTime);
    outcome_.checks.add("the reboot is trapped",
                        hasShell() ? trap.cause == "port"
                                   : trap.cause == "system-reset",
                        describe(trap));
    step.done("trapped: " + describe(trap));
    return trap;
}

void Story::bootAgain(const vm::Trap& trap)
{
    outcome_.lives.push_back({trap, vm::bootAndHandOver(*production_, site_)});
}

const Outcome& Story::run()
{
    prepare(); // KVM is tried with the copy of the disk
    chooseAccelerator();
    live(startCold(), "first life");
    std::string firstBoot =
        hasShell() ? outcome_.guest.at("boot_id").get<std::string>() : "";
    live(rebootFromInside(), "second life");
    if (hasShell())
    {
        std::string secondBoot =
            outcome_.guest.at("boot_id").get<std::string>();
        outcome_.checks.add("the second life is a new boot",
                            firstBoot != secondBoot,
                            printable(secondBoot.substr(0, 8)));
    }
    return outcome_;
}

} // namespace airlock::demo
