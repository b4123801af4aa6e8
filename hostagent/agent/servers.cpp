#include "hostagent/agent/servers.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::host
{

namespace
{

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

std::string ServerPool::choose(const DomainSettings& domain,
                               const std::set<std::string>& avoid)
{
    struct Choice
    {
        bool avoided;
        double load;
        std::string name;
        auto operator<=>(const Choice&) const = default;
    };
    std::vector<Choice> choices;
    {
        std::lock_guard lock(mutex_);
        for (const ServerSettings& server : servers_)
        {
            unsigned weight = weightFor(server, domain);
            if (weight > 0)
            {
                choices.push_back({avoid.contains(server.name),
                                   (jobs_[server.name] + 1.0) / weight,
                                   server.name});
            }
        }
    }
    std::sort(choices.begin(), choices.end());
    std::string reasons;
    for (const Choice& choice : choices)
    {
        try
        {
            boot::Health health = connect(choice.name).health();
            if (health.jobs < health.jobsMax)
            {
                return choice.name;
            }
            reasons += fmt::format("; {} is full", choice.name);
        }
        catch (const Error& error)
        {
            reasons += fmt::format("; {}: {}", choice.name, error.what());
        }
    }
    throw Error("no boot server can take the job" + reasons);
}

boot::Client ServerPool::connect(const std::string& name) const
{
    auto found = std::ranges::find(servers_, name, &ServerSettings::name);
    if (found == servers_.end())
    {
        throw Error("the configuration has no boot server " + name);
    }
    return boot::Client(found->endpoint, context_);
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
