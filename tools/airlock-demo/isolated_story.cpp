#include "isolated_story.hpp"

#include "common/table.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::demo
{

namespace
{

constexpr unsigned stepCount = 8;
constexpr std::size_t indent = 2;
constexpr Milliseconds cleanTime = std::chrono::minutes(8);
/** A guest in a guest, without hardware help. */
constexpr Milliseconds bootTime = std::chrono::minutes(40);
constexpr Milliseconds answerTime = std::chrono::minutes(2);
constexpr unsigned lives = 2;
constexpr const char* asked = "the boot host asked for it";

/** Of the project's images the one that boots a guest in a guest in time. */
rig::DomainCase guestCase()
{
    rig::DomainCase out;
    out.guest = {"tiny", 1, 160ULL << 20, true};
    return out;
}

double lengthOf(const rig::PortPeriod& period)
{
    const auto end = period.end.value_or(std::chrono::system_clock::now());
    return std::chrono::duration<double>(end - period.begin).count();
}

} // namespace

IsolatedStory::IsolatedStory(std::filesystem::path directory,
                             std::filesystem::path images,
                             const ProgressStyle& style)
    : style_(style), steps_(stepCount), images_(std::move(images)),
      directory_(std::move(directory))
{
    rig::enterPrivateNamespaces();
}

/** What the switch has seen of the boot host since it opened or shut its port
 * last. */
std::string IsolatedStory::portNow()
{
    const rig::PortPeriod now = frames_->periods().back();
    const std::string mode = rig_->mode();
    seenDirty_ |= mode == "dirty" && !now.open;
    return fmt::format("{}; port {}, {} frames through", mode,
                       now.open ? "open" : "cut off", now.passed);
}

void IsolatedStory::makeBootHost()
{
    {
        Step step(style_, title("Networks: production host, switch, boot host, "
                                "administrator"));
        rig::BootHostCase boot;
        boot.images = images_;
        rig_.emplace(directory_, boot);
        frames_.emplace(rig_->net());
        step.done("the boot host's port is " +
                  rig_->net().port()["state"].get<std::string>());
    }
    {
        Step step(style_, title("The boot host: made, measured, enrolled"));
        rig_->enrol();
        step.done("its secrets are sealed");
    }
    {
        Step step(style_, title("libvirt, host agent, disk"));
        rig_->startProduction(guestCase());
        watch_.emplace(host());
        step.done();
    }
    Step step(style_, title("The boot host shows the switch that it is clean"));
    rig_->startBootHost();
    rig_->waitClean(cleanTime, [&] { step.note(portNow()); });
    step.done(portNow());
}

void IsolatedStory::live(const std::string& name, bool first)
{
    {
        Step step(style_, title(std::string(first ? "virsh start"
                                                  : "reboot from inside") +
                                ": trap, boot in isolation, return"));
        const std::string last = host().lastJob();
        if (first)
        {
            host().guest().start();
        }
        else
        {
            vm::ConsoleShell(host().guest().console()).reboot();
        }
        const vm::Trap trap = watch_->waitTrap([&] { step.note(portNow()); });
        checks_.add(name + ": began with a trap",
                    trap.cause == (first ? "cold-start" : "port"),
                    describe(trap));
        const Json job =
            host().waitReturn(last, bootTime, [&](const std::string& state) {
                step.note(state + "; boot host " + portNow());
            });
        checks_.add(name + ": booted by the isolated boot host",
                    job.at("result") == "done",
                    "job " + job.at("id").get<std::string>().substr(0, 8));
        jobs_.push_back(job);
        step.done("trapped: " + describe(trap));
    }
    Step step(style_, title("The guest on the production machine"));
    host().waitReborn(answerTime);
    lookAround(name);
    step.done("it answers");
}

void IsolatedStory::lookAround(const std::string& name)
{
    vm::ConsoleShell shell(host().guest().console());
    shell.checkDisk(answerTime);
    checks_.add(name + ": it reads and syncs its disk", true, "fsync");
    // The guest writes a line at each boot, in the boot host.
    const std::string boots =
        shell.run("sort -u /root/boots | wc -l", answerTime);
    checks_.add(name + ": the disk has what was written in the boot host",
                std::atoi(boots.c_str()) == static_cast<int>(jobs_.size()),
                printable(boots.substr(0, boots.find('\n')), 10) + " boot(s)");
    checks_.add(name + ": virsh says running",
                host().domainState() == "running", "domstate");
}

void IsolatedStory::checkSwitch()
{
    periods_ = frames_->periods();
    std::uint64_t passed = 0;
    std::uint64_t clean = 0;
    unsigned cuts = 0;
    for (const rig::PortPeriod& period : periods_)
    {
        (period.open ? clean : passed) += period.passed;
        cuts += period.why == asked ? 1U : 0U;
    }
    checks_.add("each boot: the boot host had itself cut off", cuts == lives,
                fmt::format("{} times", cuts));
    checks_.add("the boot host was seen dirty behind a shut port", seenDirty_,
                "its log, the switch's status");
    checks_.add("cut off: none of its frames came out of another port",
                passed == 0, fmt::format("{} frames", passed));
    checks_.add("open: its frames did (the watch would have seen them)",
                clean > 0, fmt::format("{} frames", clean));
}

void IsolatedStory::run()
{
    makeBootHost();
    live("first life", true);
    live("second life", false);
    checkSwitch();
}

std::string IsolatedStory::render() const
{
    Table port({{"the boot host's port"},
                {"seconds", Table::Align::right},
                {"frames from it", Table::Align::right},
                {"let through", Table::Align::right}});
    for (const rig::PortPeriod& period : periods_)
    {
        const std::string why = period.why.empty() ? "" : ": " + period.why;
        port.row({period.open ? "open" : "cut off" + why,
                  fmt::format("{:.1f}", lengthOf(period)),
                  std::to_string(period.sent), std::to_string(period.passed)});
    }
    return "\nAt the switch\n\n" + port.render(indent) +
           "\nTime of each stage of the boots\n\n" + jobTable(jobs_) +
           "\nWhat was seen\n\n" + checkTable(checks_);
}

Json IsolatedStory::toJson() const
{
    Json periods = Json::array();
    for (const rig::PortPeriod& period : periods_)
    {
        periods.push_back({{"open", period.open},
                           {"why", period.why},
                           {"seconds", lengthOf(period)},
                           {"sent", period.sent},
                           {"passed", period.passed}});
    }
    return {{"held", checks_.allHeld()},
            {"checks", checks_.toJson()},
            {"jobs", jobs_},
            {"port", periods}};
}

} // namespace airlock::demo
