#include "tools/switchd/config.hpp"

#include "common/error.hpp"
#include "common/toml_table.hpp"

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

PortOptions readPort(const toml::node& node)
{
    if (!node.is_table())
    {
        throw Error(fmt::format("line {}: a port has to be a table",
                                node.source().begin.line));
    }
    PortOptions out;
    TomlTable table(*node.as_table(), "port.");
    table.text("name", out.name);
    table.flag("broadcast", out.broadcast);
    table.flag("plain", out.plain);
    table.done();
    if (!isInterface(out.name))
    {
        throw Error(fmt::format("line {}: port.name has to be the name of an "
                                "interface, of letters, digits, _ and -",
                                node.source().begin.line));
    }
    return out;
}

void readPorts(TomlTable& top, AgentSettings& out)
{
    const toml::node* ports = top.find("port");
    if (ports == nullptr || !ports->is_array())
    {
        throw Error("write each boot host's port as a table [[port]]");
    }
    for (const toml::node& node : *ports->as_array())
    {
        PortOptions port = readPort(node);
        bool twice = std::any_of(
            out.ports.begin(), out.ports.end(),
            [&](const PortOptions& other) { return other.name == port.name; });
        if (twice)
        {
            throw Error("there are two ports " + port.name);
        }
        out.ports.push_back(port);
    }
}

Config readTables(const toml::table& toml)
{
    constexpr std::int64_t longestLease = 3600;
    constexpr std::int64_t widestWindow = 64;
    constexpr std::int64_t mostPorts = 64;
    constexpr std::int64_t firstEtherType = 0x0600;
    Config out;
    AgentSettings& agent = out.agent;
    TomlTable top(toml, "");
    top.text("bridge", agent.bridge);
    top.path("state", agent.state);
    top.path("socket", out.socket);
    top.text("listen", out.address);
    top.number("port-number", out.port, 1, 65535);
    top.number("ethertype", agent.etherType, firstEtherType, 0xFFFF);

    TomlTable tls(top.sub("tls"), "tls.");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    TomlTable lease(top.sub("lease"), "lease.");
    std::int64_t seconds = agent.lease.count();
    lease.number("seconds", seconds, 2, longestLease);
    agent.lease = std::chrono::seconds(seconds);
    lease.number("window", agent.window, 1, widestWindow);
    lease.done();

    TomlTable limits(top.sub("limits"), "limits.");
    limits.number("guesses-per-second", agent.guesses, 1, 100000);
    limits.number("challenges-per-second", agent.challenges, 1, 1000);
    limits.done();

    readPorts(top, agent);
    top.done();
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
    return out;
}

} // namespace

Config readConfig(const std::filesystem::path& file)
try
{
    return readTables(toml::parse_file(file.string()));
}
catch (const toml::parse_error& error)
{
    throw Error(fmt::format("{}: line {}: {}", file.string(),
                            error.source().begin.line, error.description()));
}
catch (const Error& error)
{
    throw Error(file.string() + ": " + error.what());
}

} // namespace airlock::sw
