#include "hostagent/daemon/config.hpp"

#include "common/error.hpp"
#include "common/toml_table.hpp"

#include <fmt/format.h>

#include <limits>

namespace airlock::host
{

namespace
{

using Table = TomlTable;

void readReboot(const toml::table& toml, RebootSettings& out)
{
    Table table(toml, "reboot.");
    table.text("booted", out.booted);
    checkBootedPolicy(out.booted);
    table.time("limit", out.limit);
    table.time("upload-time", out.uploadTime);
    table.time("server-time", out.serverTime);
    table.time("return-time", out.returnTime);
    table.time("retry-delay", out.retryDelay);
    table.number("attempts", out.attempts, 1, 100);
    table.number("jobs", out.jobs, 1, 1000);
    table.number("disk-bytes", out.diskBytes, 0,
                 std::numeric_limits<std::int64_t>::max());
    table.done();
}

ServerSettings readServer(const toml::node& node)
{
    if (!node.is_table())
    {
        throw Error(fmt::format("line {}: a server has to be a table",
                                node.source().begin.line));
    }
    ServerSettings out;
    Table table(*node.as_table(), "server.");
    table.text("name", out.name);
    table.text("host", out.endpoint.host);
    table.number("port", out.endpoint.port, 1, 65535);
    table.number("weight", out.weight, 0, 1000);
    table.done();
    if (out.name.empty() || out.endpoint.host.empty())
    {
        throw Error(fmt::format("line {}: a server needs a name and a host",
                                node.source().begin.line));
    }
    return out;
}

Config readTables(const toml::table& toml)
{
    Config out;
    Table top(toml, "");
    top.text("libvirt", out.uri);
    top.path("state", out.state);
    top.path("socket", out.socket);
    top.text("alert-command", out.alertCommand);

    Table tls(top.sub("tls"), "tls.");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    readReboot(top.sub("reboot"), out.reboot);

    if (const toml::node* servers = top.find("server"))
    {
        if (!servers->is_array())
        {
            throw Error("write each server as a table [[server]]");
        }
        for (const toml::node& server : *servers->as_array())
        {
            out.servers.push_back(readServer(server));
        }
    }
    top.done();
    if (out.servers.empty())
    {
        throw Error("there is no [[server]]");
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

} // namespace airlock::host
