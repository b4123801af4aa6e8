#include "hostagent/agent/agent.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace airlock::host
{

namespace
{

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds turn{1};
/** After libvirt has failed a call. */
constexpr Milliseconds afterTrouble = std::chrono::seconds(3);

} // namespace

Agent::Agent(CycleContext& context, Options options)
    : context_(context), options_(std::move(options))
{}

bool Agent::connected() const
{
    std::lock_guard lock(mutex_);
    return connection_ && connection_->alive();
}

void Agent::connect()
{
    std::shared_ptr<Connection> fresh;
    try
    {
        fresh = std::make_shared<Connection>(
            options_.uri, [this](const std::string& uuid) { poke(uuid); });
        options_.log("connected to libvirt at " + options_.uri);
    }
    catch (const Error& error)
    {
        options_.log(error.what());
    }
    std::shared_ptr<Connection> before; // ends without the lock
    std::lock_guard lock(mutex_);
    before = std::exchange(connection_, fresh);
}

void Agent::poke(const std::string& uuid)
{
    std::lock_guard lock(mutex_);
    poked_.insert(uuid);
    changed_.notify_all();
}

void Agent::pokeAll()
{
    try
    {
        std::set<std::string> active;
        for (const auto& domain : connection_->activeDomains())
        {
            active.insert(domain->uuid());
            poke(domain->uuid());
        }
        // Those that are off or gone, of which no event may have come.
        for (const VmRecord& vm : context_.store.vms())
        {
            poke(vm.uuid);
        }
        std::unique_lock lock(mutex_);
        std::map<std::string, std::chrono::seconds> limits = limits_;
        lock.unlock();
        alertStuck(context_, active, limits);
    }
    catch (const Error& error)
    {
        options_.log(error.what());
    }
}

/** What a process before this one left at the boot servers: it may have died
 * when a guest was back and its job not removed yet. A job's id is in the store
 * before the server knows it, so one that is asked for after the list was made
 * is nobody's if it is not there. */
void Agent::removeOrphans(const std::stop_token& stop)
{
    for (const ServerSettings& server : context_.servers.servers())
    {
        try
        {
            boot::Client client = context_.servers.connect(server.name);
            for (const boot::JobStatus& job : client.jobs())
            {
                auto owned = [&job](const VmRecord& vm) {
                    return vm.jobId == job.id;
                };
                if (stop.stop_requested())
                {
                    return;
                }
                if (std::ranges::none_of(context_.store.vms(), owned))
                {
                    client.remove(job.id);
                }
            }
        }
        catch (const Error& error)
        {
            options_.log(
                fmt::format("boot server {}: {}", server.name, error.what()));
        }
    }
}

void Agent::run(const std::stop_token& stop, const std::function<void()>& alive)
{
    std::jthread cleaner(
        [this](const std::stop_token& end) { removeOrphans(end); });
    Clock::time_point scan = Clock::now();
    while (!stop.stop_requested())
    {
        alive();
        if (!connected())
        {
            connect();
            scan = Clock::now();
        }
        if (connected() && Clock::now() >= scan)
        {
            pokeAll();
            scan = Clock::now() + options_.scan;
        }
        startWork();
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, stop, turn, [&] { return !poked_.empty(); });
    }
    std::map<std::string, Worker> workers;
    {
        std::lock_guard lock(mutex_);
        workers.swap(workers_);
    }
    for (auto& [uuid, worker] : workers)
    {
        worker.thread.request_stop();
    }
    workers.clear();
    std::shared_ptr<Connection> last; // ends without the lock
    std::lock_guard lock(mutex_);
    last.swap(connection_);
}

void Agent::startWork()
{
    reap();
    std::lock_guard lock(mutex_);
    if (!connection_)
    {
        return;
    }
    for (auto entry = later_.begin(); entry != later_.end();)
    {
        bool due = entry->second <= Clock::now();
        if (due)
        {
            poked_.insert(entry->first);
        }
        entry = due ? later_.erase(entry) : std::next(entry);
    }
    std::set<std::string> next;
    for (const std::string& uuid : poked_)
    {
        auto [found, fresh] = workers_.try_emplace(uuid);
        if (!fresh && found->second.over)
        {
            next.insert(uuid); // It has ended since reap(): with a fresh one.
            continue;
        }
        if (!fresh)
        {
            found->second.again = true;
            continue;
        }
        found->second.thread = std::jthread(
            [this, uuid](const std::stop_token& stop) { work(uuid, stop); });
    }
    poked_ = std::move(next);
}

void Agent::reap()
{
    std::vector<std::jthread> ended;
    std::lock_guard lock(mutex_);
    for (auto entry = workers_.begin(); entry != workers_.end();)
    {
        bool over = entry->second.over;
        if (over)
        {
            ended.push_back(std::move(entry->second.thread));
        }
        entry = over ? workers_.erase(entry) : std::next(entry);
    }
}

void Agent::work(const std::string& uuid, const std::stop_token& stop)
{
    for (;;)
    {
        std::optional<Milliseconds> wait = runCycle(uuid, stop);
        std::lock_guard lock(mutex_);
        auto self = workers_.find(uuid);
        if (self == workers_.end() || stop.stop_requested())
        {
            return; // the agent ends and has taken the threads over
        }
        if (wait)
        {
            later_[uuid] = Clock::now() + *wait;
        }
        if (!self->second.again || wait)
        {
            self->second.over = true;
            return;
        }
        self->second.again = false;
    }
}

std::optional<Milliseconds> Agent::runCycle(const std::string& uuid,
                                            const std::stop_token& stop)
{
    std::shared_ptr<Connection> connection;
    {
        std::lock_guard lock(mutex_);
        connection = connection_;
    }
    try
    {
        std::shared_ptr<Domain> domain =
            connection ? connection->find(uuid) : nullptr;
        if (!connection)
        {
            return std::nullopt;
        }
        if (!domain)
        {
            forgetDomain(context_, uuid);
            return std::nullopt;
        }
        if (domain->state() == RunState::off)
        {
            abandonJob(context_, uuid);
            return std::nullopt;
        }
        if (!isAirlockDomain(domain->xml()))
        {
            return std::nullopt;
        }
        Cycle cycle(context_, domain, stop);
        {
            std::lock_guard lock(mutex_);
            limits_[uuid] = cycle.limit();
        }
        return cycle.run();
    }
    catch (const std::exception& error)
    {
        options_.log(fmt::format("domain {}: {}", uuid, error.what()));
        return afterTrouble;
    }
}

void Agent::retry(const std::string& uuid)
{
    std::optional<VmRecord> record = context_.store.vm(uuid);
    if (!record || record->state != State::held)
    {
        throw Error("VM " + uuid + " is not held");
    }
    Change change;
    change.attempts = 0;
    change.reason = "";
    context_.changed(context_.store.transition(
        uuid, State::held,
        record->marks.contains(incompleteDeltaMark) ? State::applying
                                                    : State::trapped,
        change));
    poke(uuid);
}

} // namespace airlock::host
