#include "tools/switchd/config.hpp"

#include "common/error.hpp"
#include "common/toml_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::sw
{

namespace
{

/** What may be the name of an interface: it becomes part of nftables' names
 * and of file names. */
bool isInterface(const std::string& name)
{
    return !name.empty() && name.size() <= quarantine::maxPortName &&
           std::all_of(name.begin(), name.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      (c >= '0' && c <= '9') || c == '_' || c == '-';
           });
}

void addPort(TomlTable& table, std::vector<PortOptions>& ports)
{
    PortOptions port;
    table.text("name", port.name);
    table.flag("broadcast", port.broadcast);
    table.flag("plain", port.plain);
    if (!isInterface(port.name))
    {
        table.refuse("port.name has to be the name of an interface, of "
                     "letters, digits, _ and -");
    }
    if (std::ranges::find(ports, port.name, &PortOptions::name) != ports.end())
    {
        table.refuse("there are two ports " + port.name);
    }
    ports.push_back(std::move(port));
}

void readTables(TomlTable& top, Config& out)
{
    constexpr std::int64_t longestLease = 3600;
    constexpr std::int64_t widestWindow = 64;
    constexpr std::int64_t mostPorts = 64;
    constexpr std::int64_t firstEtherType = 0x0600;
    AgentSettings& agent = out.agent;
    top.text("bridge", agent.bridge);
    top.path("state", agent.state);
    top.path("socket", out.socket);
    top.path("alert-socket", out.alertSocket);
    top.text("listen", out.address);
    top.number("port-number", out.port, 1);
    top.number("ethertype", agent.etherType, firstEtherType, 0xFFFF);

    TomlTable tls = top.sub("tls");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    TomlTable lease = top.sub("lease");
    std::int64_t seconds = agent.lease.count();
    lease.number("seconds", seconds, 2, longestLease);
    agent.lease = std::chrono::seconds(seconds);
    lease.number("window", agent.window, 1, widestWindow);
    lease.done();

    TomlTable limits = top.sub("limits");
    limits.number("guesses-per-second", agent.guesses, 1, 100000);
    limits.number("challenges-per-second", agent.challenges, 1, 1000);
    limits.done();

    top.tables("port", [&](TomlTable& table) { addPort(table, agent.ports); });
    if (agent.ports.empty())
    {
        throw Error("write each boot host's port as a table [[port]]");
    }
    if (!isInterface(agent.bridge) ||
        agent.ports.size() > static_cast<std::size_t>(mostPorts))
    {
        throw Error(fmt::format("bridge has to be the name of an interface, "
                                "with at most {} ports",
                                mostPorts));
    }
    // Each is two instructions of a filter in the kernel, which takes 4096.
    constexpr std::uint64_t mostWatched = 1900;
    if ((agent.window + 1) * agent.ports.size() > mostWatched)
    {
        throw Error("lease.window is too wide for so many ports");
    }
}

} // namespace

Config readConfig(const std::filesystem::path& file)
{
    Config out;
    readToml(file, [&](TomlTable& top) { readTables(top, out); });
    return out;
}

} // namespace airlock::sw
