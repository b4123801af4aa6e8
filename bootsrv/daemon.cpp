#include "bootsrv/daemon.hpp"

#include "bootsrv/service.hpp"
#include "common/error.hpp"
#include "common/log.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

namespace airlock::boot
{

namespace
{

constexpr int exitError = 1;
constexpr int exitUsage = 2;
constexpr Milliseconds housekeepingStep = std::chrono::minutes(1);

http::Server::Options serverOptions(const Config& config)
{
    http::Server::Options out;
    out.address = config.address;
    out.port = config.port;
    out.limits = config.limits;
    out.notice = [](const std::string& peer, const std::string& what) {
        log::notice("A connection ended badly",
                    {{"PEER", peer}, {"REASON", what}});
    };
    return out;
}

std::vector<log::Field> fieldsOf(const Work& work)
{
    return {{"JOB", work.id},
            {"VM_UUID", work.request.job.vm},
            {"DOMAIN", work.request.guest.name},
            {"TENANT", work.request.tenant},
            {"GENERATION", std::to_string(work.request.job.generation)}};
}

/** A server whose QEMU does not run says so in its health, and fails jobs. */
std::optional<QemuFacts> factsOf(const std::filesystem::path& qemu)
{
    try
    {
        return askQemu(qemu);
    }
    catch (const Error& error)
    {
        log::error("QEMU does not run", {{"REASON", error.what()}});
        return std::nullopt;
    }
}

} // namespace

BootServer::BootServer(const Config& config)
    : config_(config), store_(config.stateDirectory, config.quota),
      metrics_(store_, config.parallel, AIRLOCK_VERSION)
{
    vm::findQemu(config.boot.qemu);
    if (::access(config.boot.bootrun.c_str(), X_OK) != 0)
    {
        throwErrno("cannot start " + config.boot.bootrun.string());
    }
    auto context =
        std::make_shared<tls::Context>(config.tls, tls::Context::Side::server);
    http_.emplace(serverOptions(config), std::move(context),
                  makeHandler(store_, {config.parallel, AIRLOCK_VERSION,
                                       factsOf(config.boot.qemu)}));
    if (!config.metrics.empty())
    {
        status_.emplace(config.metrics, [this](const std::string& path) {
            return metrics_.page(path);
        });
    }
    for (unsigned i = 0; i < config.parallel; i++)
    {
        workers_.emplace_back([this] { work(); });
    }
}

BootServer::~BootServer()
{
    stopping_ = true;
    status_.reset();
    store_.stop();
    http_->stop();
    workers_.clear();
}

void BootServer::work()
{
    constexpr Milliseconds pause = std::chrono::seconds(5);
    while (!stopping_)
    {
        try
        {
            std::optional<Work> work = store_.next();
            if (!work)
            {
                return;
            }
            runOne(*work);
        }
        catch (const std::exception& error)
        {
            // The disk is full, most likely: not even a state can be noted.
            log::error("A job cannot be worked on", {{"REASON", error.what()}});
            std::this_thread::sleep_for(pause);
        }
    }
}

void BootServer::runOne(const Work& work)
{
    log::info("A boot begins", fieldsOf(work));
    try
    {
        store_.done(work.id, boot(work));
        metrics_.ended("done");
        log::info("A boot is done", fieldsOf(work));
    }
    catch (const BootCancelled&)
    {
        if (!stopping_)
        {
            fail(work, "gone", "cancelled");
        }
    }
    catch (const BootFailed& error)
    {
        fail(work, error.code(), error.what());
    }
    catch (const http::Problem& problem)
    {
        // Its end could not be noted.
        fail(work, problem.status() == 507 ? "no-space" : "internal",
             problem.what());
    }
    catch (const SystemError& error)
    {
        bool full = error.code() == ENOSPC || error.code() == EDQUOT;
        fail(work, full ? "no-space" : "internal", error.what());
    }
    catch (const std::exception& error)
    {
        fail(work, "internal", error.what());
    }
}

JobResult BootServer::boot(const Work& work)
{
    using Clock = std::chrono::steady_clock;
    Clock::time_point start = Clock::now();
    std::string running;
    auto over = [&] {
        if (!running.empty())
        {
            std::chrono::duration<double> time = Clock::now() - start;
            metrics_.stage(running, time.count());
        }
        start = Clock::now();
    };
    BootWatcher watcher;
    watcher.stage = [&](const std::string& stage, double seconds) {
        over();
        running = stage;
        store_.stage(work.id, stage, seconds);
        auto fields = fieldsOf(work);
        fields.emplace_back("STAGE", stage);
        log::info("A stage of a boot begins", fields);
    };
    watcher.weakFence = [&](const std::string& missing) {
        auto fields = fieldsOf(work);
        fields.emplace_back("MISSING", missing);
        log::warning("A boot is fenced off less than it could be", fields);
    };
    JobResult result = runBoot(config_.boot, work, stopping_, watcher);
    over();
    return result;
}

void BootServer::fail(const Work& work, const std::string& code,
                      const std::string& message)
{
    store_.failed(work.id, {code, message});
    metrics_.ended(code);
}

namespace
{

/** Time between pings so that two may be late; 0: no watchdog. */
Milliseconds watchdogStep()
{
    std::uint64_t microseconds = 0;
    if (::sd_watchdog_enabled(0, &microseconds) <= 0)
    {
        return Milliseconds(0);
    }
    return Milliseconds(microseconds / 1000 / 4);
}

/** Runs until a signal asks for the end. Signals were blocked before the first
 * thread was made. */
void serve(const Config& config, const sigset_t& signals)
{
    BootServer server(config);
    UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    log::info(
        "The boot server takes jobs",
        {{"ADDRESS", config.address}, {"PORT", std::to_string(server.port())}});
    ::sd_notifyf(0, "READY=1\nSTATUS=Takes jobs on port %u", server.port());
    Milliseconds watchdog = watchdogStep();
    Milliseconds step = watchdog.count() > 0
                            ? std::min(watchdog, housekeepingStep)
                            : housekeepingStep;
    Deadline housekeeping(housekeepingStep);
    for (;;)
    {
        pollfd poll = {fd.get(), POLLIN, 0};
        if (::poll(&poll, 1, static_cast<int>(step.count())) > 0)
        {
            break;
        }
        if (housekeeping.passed())
        {
            server.housekeeping();
            housekeeping = Deadline(housekeepingStep);
        }
        ::sd_notify(0, "WATCHDOG=1");
    }
    ::sd_notify(0, "STOPPING=1");
    log::info("The boot server ends");
}

void checkConfig(const Config& config)
{
    vm::findQemu(config.boot.qemu);
    tls::Context(config.tls, tls::Context::Side::server);
    if (::access(config.boot.bootrun.c_str(), X_OK) != 0)
    {
        throwErrno("cannot start " + config.boot.bootrun.string());
    }
}

} // namespace

int runDaemon(int argc, const char* const* argv)
{
    std::string file = "/etc/airlock/bootd.toml";
    bool checkOnly = false;
    CLI::App app("Boots guests for host agents.", "airlock-bootd");
    app.add_option("--config", file, "configuration file")
        ->capture_default_str();
    app.add_flag("--check-config", checkOnly,
                 "look at the configuration and at what it names, then exit");
    app.set_version_flag("--version", "airlock-bootd " AIRLOCK_VERSION);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGTERM);
    ::sigaddset(&signals, SIGINT);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    // Memory and descriptors are out of reach for others of the same user.
    ::prctl(PR_SET_DUMPABLE, 0);
    try
    {
        Config config = readConfig(file);
        if (checkOnly)
        {
            checkConfig(config);
            fmt::print("{}: ok\n", file);
            return 0;
        }
        serve(config, signals);
        return 0;
    }
    catch (const std::exception& error)
    {
        log::error("The boot server cannot run", {{"REASON", error.what()}});
        return exitError;
    }
}

} // namespace airlock::boot
