#include "hostagent/daemon/config.hpp"

#include "common/error.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

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
    Table(const toml::table& table, std::string name)
        : table_(table), name_(std::move(name))
    {}

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
    std::set<std::string> known_;
};

const toml::table& subtable(Table& parent, const char* key)
{
    static const toml::table empty;
    const toml::node* node = parent.find(key);
    if (node == nullptr)
    {
        return empty;
    }
    if (!node->is_table())
    {
        throw Error(fmt::format("line {}: {} has to be a table",
                                node->source().begin.line, key));
    }
    return *node->as_table();
}

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

    Table tls(subtable(top, "tls"), "tls.");
    tls.path("certificate", out.identity.certificate);
    tls.path("key", out.identity.key);
    tls.path("authorities", out.identity.authorities);
    tls.done();

    readReboot(subtable(top, "reboot"), out.reboot);

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
