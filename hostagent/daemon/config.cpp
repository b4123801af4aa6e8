#include "hostagent/daemon/config.hpp"

#include "common/error.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <limits>
#include <set>

namespace airlock::host
{

namespace
{

using std::chrono::seconds;

/** A table of the file. Every key has to be asked for: done() refuses those
 * that nobody knows. */
class Table
{
  public:
    using Keys = std::set<std::string>;

    /** The keys that are asked for are put into `keys`. */
    Table(const toml::table& table, std::string name, Keys& keys)
        : table_(table), name_(std::move(name)), keys_(keys)
    {}

    Keys& keys() const { return keys_; }

    void text(const char* key, std::string& out)
    {
        if (const toml::node* node = find(key))
        {
            auto value = node->value_exact<std::string>();
            out = value ? *value : refuse(*node, key, "has to be a text");
        }
    }
    void path(const char* key, std::filesystem::path& out)
    {
        std::string value = out.string();
        text(key, value);
        out = value;
    }
    template <typename Number>
    void number(const char* key, Number& out, std::int64_t least,
                std::int64_t most)
    {
        if (const toml::node* node = find(key))
        {
            auto value = node->value_exact<std::int64_t>();
            if (!value || *value < least || *value > most)
            {
                refuse(*node, key,
                       fmt::format("has to be a number from {} to {}", least,
                                   most));
            }
            out = static_cast<Number>(*value);
        }
    }
    void time(const char* key, seconds& out)
    {
        std::int64_t value = out.count();
        number(key, value, 1, 7LL * 24 * 3600);
        out = seconds(value);
    }
    const toml::node* find(const char* key)
    {
        known_.insert(key);
        keys_.insert(name_ + key);
        return table_.get(key);
    }
    void done() const
    {
        for (const auto& [key, node] : table_)
        {
            if (!known_.contains(std::string(key.str())))
            {
                refuse(node, std::string(key.str()), "is not known");
            }
        }
    }

  private:
    [[noreturn]] std::string refuse(const toml::node& node,
                                    const std::string& key,
                                    const std::string& why) const
    {
        throw Error(fmt::format("line {}: {}{} {}", node.source().begin.line,
                                name_, key, why));
    }

    const toml::table& table_;
    std::string name_;
    Keys& keys_;
    std::set<std::string> known_;
};

/** An empty one when it is not there. */
Table subtable(Table& parent, const char* key)
{
    static const toml::table empty;
    const toml::node* node = parent.find(key);
    if (node != nullptr && !node->is_table())
    {
        throw Error(fmt::format("line {}: {} has to be a table",
                                node->source().begin.line, key));
    }
    return {node == nullptr ? empty : *node->as_table(), std::string(key) + ".",
            parent.keys()};
}

void readReboot(Table table, RebootSettings& out)
{
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

void readAlert(Table table, AlertSettings& out)
{
    std::string webhook;
    table.text("command", out.command);
    table.text("webhook", webhook);
    table.path("webhook-authorities", out.webhookAuthorities);
    table.time("time", out.time);
    table.done();
    if (!webhook.empty())
    {
        out.webhook = http::parseWebAddress(webhook);
    }
}

ServerSettings readServerTable(Table table)
{
    ServerSettings out;
    table.text("name", out.name);
    table.text("host", out.endpoint.host);
    table.number("port", out.endpoint.port, 1, 65535);
    table.number("weight", out.weight, 0, 1000);
    table.done();
    return out;
}

ServerSettings readServer(const toml::node& node, Table::Keys& keys)
{
    if (!node.is_table())
    {
        throw Error(fmt::format("line {}: a server has to be a table",
                                node.source().begin.line));
    }
    ServerSettings out =
        readServerTable(Table(*node.as_table(), "server.", keys));
    if (out.name.empty() || out.endpoint.host.empty())
    {
        throw Error(fmt::format("line {}: a server needs a name and a host",
                                node.source().begin.line));
    }
    return out;
}

void readServers(const toml::node* servers, Config& out, Table::Keys& keys)
{
    if (servers == nullptr)
    {
        return;
    }
    if (!servers->is_array())
    {
        throw Error("write each server as a table [[server]]");
    }
    for (const toml::node& node : *servers->as_array())
    {
        ServerSettings server = readServer(node, keys);
        if (std::ranges::find(out.servers, server.name,
                              &ServerSettings::name) != out.servers.end())
        {
            throw Error(fmt::format("line {}: there are two servers {}",
                                    node.source().begin.line, server.name));
        }
        out.servers.push_back(std::move(server));
    }
}

void readHistory(Table& table, std::chrono::hours& out)
{
    std::int64_t days = out.count() / 24;
    table.number("history-days", days, 1, 36500);
    out = std::chrono::hours(24 * days);
}

void readMetrics(Table table, std::string& listen)
{
    table.text("listen", listen);
    table.done();
}

Config readTables(const toml::table& toml, Table::Keys& keys)
{
    Config out;
    Table top(toml, "", keys);
    top.text("libvirt", out.uri);
    top.path("state", out.state);
    top.path("socket", out.socket);
    readHistory(top, out.history);

    Table tls = subtable(top, "tls");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    readReboot(subtable(top, "reboot"), out.reboot);
    readAlert(subtable(top, "alert"), out.alerts);
    readMetrics(subtable(top, "metrics"), out.metrics);
    readServers(top.find("server"), out, keys);
    top.done();
    return out;
}

} // namespace

Config readConfig(const std::filesystem::path& file)
try
{
    Table::Keys ignored;
    Config out = readTables(toml::parse_file(file.string()), ignored);
    if (out.servers.empty())
    {
        throw Error("there is no [[server]]");
    }
    return out;
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

std::vector<std::string> configKeys()
{
    toml::table empty;
    Table::Keys keys;
    readTables(empty, keys);
    readServerTable(Table(empty, "server.", keys));
    // Tables are no keys.
    std::erase_if(keys, [&](const std::string& key) {
        auto inside = keys.lower_bound(key + ".");
        return inside != keys.end() && inside->starts_with(key + ".");
    });
    return {keys.begin(), keys.end()};
}

} // namespace airlock::host
