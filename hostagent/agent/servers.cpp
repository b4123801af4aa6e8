#include "hostagent/agent/servers.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::host
{

namespace
{

/** Health is asked while a guest waits, or others do: a server that is cut off
 * may not cost more. */
http::ClientLimits quick()
{
    http::ClientLimits out;
    out.connect = out.call = out.stall = std::chrono::seconds(5);
    return out;
}

/** What the domain says of a server, else what the pool says. */
unsigned weightFor(const ServerSettings& server, const DomainSettings& domain)
{
    for (const ServerWeight& wish : domain.servers)
    {
        if (wish.name == server.name)
        {
            return wish.weight;
        }
    }
    return server.weight;
}

} // namespace

ServerPool::ServerPool(std::vector<ServerSettings> servers,
                       std::shared_ptr<const tls::Context> context)
    : servers_(std::move(servers)), context_(std::move(context))
{}

/** The best of those that were not tried; nothing when there is none. It has
 * one job more then. */
const ServerSettings* ServerPool::take(const DomainSettings& domain,
                                       const std::set<std::string>& avoid,
                                       const std::set<std::string>& tried)
{
    struct Choice
    {
        bool down;
        bool avoided;
        double load;
        const ServerSettings* server;
        auto operator<=>(const Choice&) const = default;
    };
    std::optional<Choice> best;
    std::lock_guard lock(mutex_);
    for (const ServerSettings& server : servers_)
    {
        unsigned weight = weightFor(server, domain);
        if (weight == 0 || tried.contains(server.name))
        {
            continue;
        }
        auto seen = states_.find(server.name);
        Choice choice{seen != states_.end() && !seen->second.up,
                      avoid.contains(server.name),
                      (jobs_[server.name] + 1.0) / weight, &server};
        best = best ? std::min(*best, choice) : choice;
    }
    if (!best)
    {
        return nullptr;
    }
    jobs_[best->server->name]++;
    return best->server;
}

std::string ServerPool::choose(const DomainSettings& domain,
                               const std::set<std::string>& avoid)
{
    std::set<std::string> tried;
    std::string reasons;
    while (const ServerSettings* server = take(domain, avoid, tried))
    {
        const std::string& name = server->name;
        ServerState state = ask(*server);
        if (state.up && state.jobs < state.jobsMax)
        {
            return name;
        }
        ended(name);
        tried.insert(name);
        reasons += state.up ? fmt::format("; {} is full", name)
                            : fmt::format("; {}: {}", name, state.why);
    }
    throw Error("no boot server can take the job" + reasons);
}

/** Notes the answer. */
ServerState ServerPool::ask(const ServerSettings& server)
{
    ServerState out;
    try
    {
        boot::Health health =
            boot::Client(server.endpoint, context_, quick()).health();
        out.up = health.qemu.has_value();
        out.why = out.up ? "" : "its QEMU does not run";
        out.jobs = health.jobs;
        out.jobsMax = health.jobsMax;
    }
    catch (const Error& error)
    {
        out.why = error.what();
    }
    note(server.name, out);
    return out;
}

void ServerPool::note(const std::string& name, const ServerState& now)
{
    bool news = false;
    {
        std::lock_guard lock(mutex_);
        auto [place, fresh] = states_.try_emplace(name, now);
        news = fresh ? !now.up : place->second.up != now.up;
        place->second = now;
    }
    if (news && onChange_)
    {
        onChange_(name, now);
    }
}

void ServerPool::look()
{
    for (const ServerSettings& server : servers_)
    {
        ask(server);
    }
}

std::map<std::string, ServerState> ServerPool::states() const
{
    std::lock_guard lock(mutex_);
    return states_;
}

boot::Client ServerPool::connect(const std::string& name,
                                 const http::ClientLimits& limits) const
{
    auto found = std::ranges::find(servers_, name, &ServerSettings::name);
    if (found == servers_.end())
    {
        throw Refused("boot server " + name, "is not in the configuration");
    }
    return boot::Client(found->endpoint, context_, limits);
}

void ServerPool::started(const std::string& name)
{
    std::lock_guard lock(mutex_);
    jobs_[name]++;
}

void ServerPool::ended(const std::string& name)
{
    std::lock_guard lock(mutex_);
    unsigned& count = jobs_[name];
    count -= count > 0 ? 1 : 0;
}

} // namespace airlock::host
