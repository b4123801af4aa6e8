#include "hostagent/daemon/config.hpp"

#include "common/error.hpp"
#include "common/toml_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::host
{

namespace
{

void readReboot(TomlTable table, RebootSettings& out)
{
    table.text("booted", out.booted);
    checkBootedPolicy(out.booted);
    std::int64_t limit = out.limit.count();
    table.number("limit", limit, 1, vm::maxBootTime.count());
    out.limit = std::chrono::seconds(limit);
    table.time("upload-time", out.uploadTime);
    table.time("server-time", out.serverTime);
    table.time("return-time", out.returnTime);
    table.time("retry-delay", out.retryDelay);
    table.number("attempts", out.attempts, 1, 100);
    table.number("jobs", out.jobs, 1, 1000);
    table.number("disk-bytes", out.diskBytes, 0);
    table.done();
}

void readAlert(TomlTable table, AlertSettings& out)
{
    readAlertSettings(table, out);
    table.done();
}

ServerSettings readServer(TomlTable& table)
{
    ServerSettings out;
    table.text("name", out.name);
    table.text("host", out.endpoint.host);
    table.number("port", out.endpoint.port, 1);
    table.number("weight", out.weight, 0, 1000);
    return out;
}

void addServer(TomlTable& table, std::vector<ServerSettings>& servers)
{
    ServerSettings server = readServer(table);
    if (server.name.empty() || server.endpoint.host.empty())
    {
        table.refuse("a server needs a name and a host");
    }
    if (std::ranges::find(servers, server.name, &ServerSettings::name) !=
        servers.end())
    {
        table.refuse("there are two servers " + server.name);
    }
    servers.push_back(std::move(server));
}

void readHistory(TomlTable& table, std::chrono::hours& out)
{
    std::int64_t days = out.count() / 24;
    table.number("history-days", days, 1, 36500);
    out = std::chrono::hours(24 * days);
}

void readMetrics(TomlTable table, std::string& listen)
{
    table.text("listen", listen);
    table.done();
}

/** All but the servers. */
void readTables(TomlTable& top, Config& out)
{
    top.text("libvirt", out.uri);
    top.path("state", out.state);
    top.path("socket", out.socket);
    top.text("socket-group", out.socketGroup);
    readHistory(top, out.history);

    TomlTable tls = top.sub("tls");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    readReboot(top.sub("reboot"), out.reboot);
    readAlert(top.sub("alert"), out.alerts);
    readMetrics(top.sub("metrics"), out.metrics);
}

} // namespace

Config readConfig(const std::filesystem::path& file)
{
    Config out;
    readToml(file, [&](TomlTable& top) {
        readTables(top, out);
        top.tables("server",
                   [&](TomlTable& table) { addServer(table, out.servers); });
        if (out.servers.empty())
        {
            throw Error("there is no [[server]]");
        }
    });
    return out;
}

std::vector<std::string> configKeys()
{
    return tomlKeys([](TomlTable& top) {
        Config ignored;
        readTables(top, ignored);
        top.tables("server", [](TomlTable& table) { readServer(table); });
    });
}

} // namespace airlock::host
