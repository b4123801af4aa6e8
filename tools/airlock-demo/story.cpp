#include "story.hpp"

#include "common/error.hpp"
#include "common/process.hpp"
#include "devmodel/vm/host_network.hpp"
#include "devmodel/vm/kvm_probe.hpp"
#include "tools/rigs/boot_survey.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace airlock::demo
{

namespace
{

constexpr const char* bridge = "airlock0";
constexpr const char* hostAddress = "192.0.2.1/24";
constexpr const char* guestAddress = "192.0.2.2";
constexpr const char* guestMac = "52:54:00:a1:0c:01";
constexpr unsigned stepCount = 7;

constexpr Milliseconds answerTime = std::chrono::minutes(2);
constexpr Milliseconds bootTime = std::chrono::minutes(15);
constexpr Milliseconds pingTime = std::chrono::seconds(30);
/** Between two looks at the timers. */
constexpr Milliseconds lifeTime = std::chrono::seconds(2);
/** Seconds between two entries of the witness, which writes two a second. A
 * guest that is slow because its host is takes some; a clock that went on
 * while the guest was moved, or jumped, would show more. */
constexpr double longestGap = 5;

/** Writes the guest's uptime down from early in its boot on, wherever it runs:
 * what it has seen can be read later. */
constexpr const char* installWitness =
    R"(command -v systemctl >/dev/null || exit 7
mkdir -p /var/lib/airlock
cat >/etc/systemd/system/airlock-witness.service <<'END'
[Unit]
DefaultDependencies=no
After=local-fs.target
[Service]
ExecStart=/bin/sh -c 'exec >/var/lib/airlock/witness; while :; do cut -d " " -f 1 /proc/uptime; sleep 0.5; done'
[Install]
WantedBy=sysinit.target
END
systemctl enable airlock-witness.service && sync)";

/** Count, first, last, times that it went back, longest gap. */
constexpr const char* readWitness =
    "awk 'NR == 1 { first = $1; last = $1 } $1 < last { back++ } "
    "$1 - last > gap { gap = $1 - last } { last = $1 } "
    "END { printf \"{\\\"entries\\\":%d,\\\"first\\\":%s,\\\"last\\\":%s,"
    "\\\"back\\\":%d,\\\"gap\\\":%.2f}\\n\", NR, first, last, back, gap }' "
    "/var/lib/airlock/witness";

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
    out["steps"] = Json::array();
    for (const StepTime& step : steps)
    {
        out["steps"].push_back(
            {{"step", step.name}, {"seconds", step.seconds}});
    }
    out["lives"] = Json::array();
    for (const Life& life : lives)
    {
        out["lives"].push_back(
            {{"trap", trapToJson(life.trap)}, {"job", life.job}});
    }
    out["boot_machine"] = surveyToJson(full);
    out["production_machine"] = surveyToJson(stripped);
    out["guest"] = guest;
    return out;
}

Story::Story(const Options& options, const ProgressStyle& style)
    : options_(options), style_(style), steps_(stepCount),
      qemu_(vm::findQemuBuilds(options.build))
{
    spec_.name = "demo";
    spec_.vcpus = options.vcpus;
    spec_.memory = options.memory;
    spec_.disks = {{options.guest, true}};
    spec_.nics = {{guestMac}};
    spec_.agent = true;
    vm::validate(spec_);
    rig::enterPrivateNamespaces();
}

bool Story::ownImage() const
{
    return options_.guest.parent_path() == options_.build / "images";
}

void Story::finish(Step& step, const std::string& name, const std::string& note)
{
    outcome_.steps.push_back({name, step.elapsed().count()});
    step.done(note);
}

void Story::chooseAccelerator()
{
    Step step(style_, title("Accelerator"));
    vm::KvmProbe probe{options_.accelerator == "kvm", "as asked for"};
    if (options_.accelerator == "auto")
    {
        step.note("trying KVM with this guest");
        probe = vm::probeKvm(qemu_.boot, spec_, options_.build / "kvm.json");
    }
    spec_.accelerator =
        probe.usable ? vm::Accelerator::kvm : vm::Accelerator::tcg;
    outcome_.accelerator = probe.usable ? "kvm" : "tcg";
    finish(step, "accelerator",
           outcome_.accelerator + ": " + printable(probe.why, 60));
}

void Story::startHost()
{
    Step step(style_, title("libvirt, host agent, boot server, disk"));
    runTool({"ip", "link", "add", bridge, "type", "bridge"});
    runTool({"ip", "address", "add", hostAddress, "dev", bridge});
    runTool({"ip", "link", "set", bridge, "up"});

    rig::DomainCase domain;
    domain.name = spec_.name;
    domain.guest.vcpus = spec_.vcpus;
    domain.guest.memory = spec_.memory;
    domain.image = options_.guest;
    domain.cards = rig::bridgeCard(guestMac, bridge);
    domain.kvm = spec_.accelerator == vm::Accelerator::kvm;
    rig::RigSettings settings;
    settings.booted = options_.booted;
    if (options_.firmware)
    {
        settings.boot =
            fmt::format("firmware = \"{}\"", options_.firmware->string());
    }
    rig_.emplace(std::vector{domain}, settings);
    watch_.emplace(*rig_);
    finish(step, "host",
           formatBytes(std::filesystem::file_size(options_.guest)) +
               " of disk");
}

void Story::surveyBootMachine()
{
    Step step(style_, title("A look at the full machine"));
    vm::BootOptions options;
    options.firmware = options_.firmware;
    outcome_.full =
        rig::surveyBootMachine(qemu_.boot, spec_, options, rig_->path(),
                               [&step] { step.note("firmware"); });
    finish(step, "survey",
           fmt::format("{} devices", outcome_.full.deviceCount()));
}

void Story::writeMarker(vm::ConsoleShell& shell, const std::string& name)
{
    Json answer = shell.probe("mark " + name, answerTime);
    markers_[name] = JsonField(answer, "airlock-probe").at("sha256").string();
}

void Story::start()
{
    rig_->guest().start();
}

void Story::rebootFromInside()
{
    if (hasShell())
    {
        shell().reboot();
    }
    else
    {
        rig_->libvirt().virsh({"reset", spec_.name});
    }
}

void Story::live(const std::string& name, const std::string& how)
{
    {
        bool first = outcome_.lives.empty();
        Step step(style_, title(how + ": trap, boot elsewhere, return"));
        const std::string last = rig_->lastJob();
        first ? start() : rebootFromInside();
        const vm::Trap trap =
            watch_->waitTrap([&] { step.note("waiting for the trap"); });
        std::string wanted = first        ? "cold-start"
                             : hasShell() ? "port"
                                          : "system-reset";
        outcome_.checks.add(name + ": began with a trap", trap.cause == wanted,
                            describe(trap));
        Json job =
            rig_->waitReturn(last, bootTime, [&](const std::string& state) {
                step.note(state);
            });
        outcome_.checks.add(
            name + ": booted by the boot server", job.at("result") == "done",
            "job " + job.at("id").get<std::string>().substr(0, 8) + " " +
                printable(job.at("result").get<std::string>()));
        outcome_.lives.push_back({trap, job});
        finish(step, name + ": away", "trapped: " + describe(trap));
    }
    Step step(style_, title("The guest on the production machine"));
    outcome_.stripped = vm::survey(watch_->domain());
    if (hasShell())
    {
        rig_->waitReborn(answerTime);
        lookAround(name);
    }
    outcome_.checks.add(name + ": virsh says running",
                        rig_->domainState() == "running", "domstate");
    finish(step, name + ": look", hasShell() ? "it answers" : "it runs");
}

void Story::lookAround(const std::string& name)
{
    vm::ConsoleShell shell = this->shell();
    shell.checkDisk(answerTime);
    Json first = shell.probe("report", answerTime);
    std::this_thread::sleep_for(lifeTime);
    writeMarker(shell, "living-" + markerWord(name));
    if (outcome_.lives.size() == 1)
    {
        witness_ = rig_->guest()
                       .console()
                       .runCommand(installWitness, answerTime)
                       .status == 0;
    }
    else if (witness_)
    {
        checkWitness();
    }
    outcome_.guest = shell.settled(answerTime);
    outcome_.checks.addLife(name, first, outcome_.guest, spec_.vcpus);
    outcome_.checks.addMarkers(markers_, outcome_.guest);
    checkNetwork(name, outcome_.guest);
}

void Story::checkWitness()
{
    Json seen = parseJson(shell().run(readWitness, answerTime), "witness");
    JsonField field(seen, "witness");
    double first = field.at("first").number();
    double last = field.at("last").number();
    double gap = field.at("gap").number();
    std::string entries = fmt::format("{} entries, uptime {:.1f} s to {:.1f} s",
                                      field.at("entries").u64(), first, last);
    outcome_.checks.add(
        "second life: what was written during the boot is there",
        field.at("entries").u64() > 1 && first < last, entries);
    outcome_.checks.add("second life: uptime never went back, boot included",
                        field.at("back").u64() == 0,
                        fmt::format("{} times", field.at("back").u64()));
    outcome_.checks.add("second life: the guest's clock did not jump",
                        gap <= longestGap,
                        fmt::format("{:.2f} s at most", gap));
}

void Story::checkNetwork(const std::string& name, const Json& report)
{
    JsonField links = JsonField(report, "airlock-probe").at("network");
    bool carrier =
        links.arraySize() == 1 && links.element(0).at("carrier").u64() == 1;
    outcome_.checks.add(name + ": the network has a carrier", carrier,
                        fmt::format("{} link(s)", links.arraySize()));
    // A user's own image has its own address.
    if (ownImage())
    {
        outcome_.checks.add(name + ": the host reaches the guest",
                            vm::ping(guestAddress, pingTime),
                            std::string("ping ") + guestAddress);
    }
}

const Outcome& Story::run()
{
    chooseAccelerator();
    startHost();
    surveyBootMachine();
    live("first life", "virsh start");
    std::string firstBoot =
        hasShell() ? outcome_.guest.at("boot_id").get<std::string>() : "";
    live("second life", hasShell() ? "reboot from inside" : "virsh reset");
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
