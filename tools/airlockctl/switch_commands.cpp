#include "common/file.hpp"
#include "common/secret.hpp"
#include "common/sha256.hpp"
#include "common/table.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"

#include <fmt/format.h>

#include <algorithm>

/** What the switch agent is asked over its control socket. */
namespace airlock::ctl
{

using control::Client;

namespace
{

constexpr std::size_t maxText = 4096;
constexpr std::size_t maxKeyFile = 16U << 10;
constexpr mode_t rootMode = 0600;

std::string textAt(const JsonField& object, std::string_view name)
{
    auto field = object.find(name);
    return field ? field->string(maxText) : "";
}

std::string numberAt(const JsonField& object, std::string_view name)
{
    auto field = object.find(name);
    return field ? std::to_string(field->u64()) : "";
}

std::uint64_t missesOf(const JsonField& port)
{
    std::uint64_t sum = 0;
    for (const auto& [kind, count] : port.at("misses").json().items())
    {
        sum += JsonField(count, "misses").u64();
    }
    return sum;
}

std::string secondsLeft(const JsonField& port)
{
    auto lease = port.find("lease");
    return lease ? fmt::format("{:.1f}",
                               static_cast<double>(lease->at("left-ms").u64()) /
                                   1000)
                 : "";
}

std::string portsText(const JsonField& ports)
{
    Table table({{"port"},
                 {"link"},
                 {"state"},
                 {"left (s)", Table::Align::right},
                 {"boot host"},
                 {"method"},
                 {"epoch", Table::Align::right},
                 {"misses", Table::Align::right},
                 {"cut off because"}});
    for (std::size_t i = 0; i < ports.arraySize(); i++)
    {
        JsonField port = ports.element(i);
        table.row({textAt(port, "port"), textAt(port, "link"),
                   textAt(port, "state"), secondsLeft(port),
                   textAt(port, "host"), textAt(port, "method"),
                   numberAt(port, "epoch"), std::to_string(missesOf(port)),
                   textAt(port, "reason")});
    }
    return table.render();
}

std::string portText(const JsonField& port)
{
    std::string out;
    auto line = [&](std::string_view title, const std::string& value) {
        if (!value.empty())
        {
            out += fmt::format("{:<12} {}\n", title, value);
        }
    };
    line("port", textAt(port, "port"));
    line("link", textAt(port, "link"));
    line("state", textAt(port, "state"));
    line("reason", textAt(port, "reason"));
    if (auto lease = port.find("lease"))
    {
        line("address", textAt(*lease, "address"));
        line("seconds left", secondsLeft(port));
    }
    line("boot host", textAt(port, "host"));
    line("method", textAt(port, "method"));
    line("epoch", numberAt(port, "epoch"));
    line("opened", numberAt(port, "opened"));
    line("renewed", numberAt(port, "renewed"));
    for (const auto& [kind, count] : port.at("misses").json().items())
    {
        std::uint64_t number = JsonField(count, "misses").u64();
        line(plainText(kind, 16),
             number != 0 ? std::to_string(number) + " misses" : "");
    }
    return out;
}

/** The file's one line of 64 hexadecimal digits. */
std::string readRoot(const std::filesystem::path& file)
{
    Bytes bytes = readFile(file, 256);
    std::string text(bytes.begin(), bytes.end());
    wipe(bytes);
    text.erase(std::find_if(text.begin(), text.end(),
                            [](char c) { return c == '\n' || c == '\r'; }),
               text.end());
    if (!digestFromHex(text))
    {
        throw Refused(file.string(), "is not a line of 64 hexadecimal digits");
    }
    return text;
}

/** Where a root goes that the agent makes; looked at before it makes one. */
void refuseExisting(const std::filesystem::path& file)
{
    if (std::filesystem::exists(file))
    {
        throw Refused(file.string(), "is there already; nothing was done");
    }
}

/** The reply without its root, which goes to the file. */
Result stored(Json reply, const std::optional<std::filesystem::path>& file)
{
    std::string text = portText(JsonField(reply, "reply").at("port"));
    if (auto root = JsonField(reply, "reply").find("root"))
    {
        std::string hex = root->string(maxText);
        writeFileAtomic(file.value(), hex + "\n", rootMode);
        wipe({reinterpret_cast<std::uint8_t*>(hex.data()), hex.size()});
        reply.erase("root");
        text += fmt::format("\n{} is for the boot host, to be sealed there; "
                            "delete it here then\n",
                            file->string());
    }
    return {kOk, reply, text};
}

void addRoot(Json& parameters, const SwitchArguments& arguments)
{
    if (arguments.root && arguments.output)
    {
        throw Refused("--root, --output",
                      "only one of them: a root that is there is written to no "
                      "file");
    }
    if (arguments.root)
    {
        parameters["root"] = readRoot(*arguments.root);
    }
    else if (arguments.output)
    {
        refuseExisting(*arguments.output);
    }
    else
    {
        throw Refused("--root, --output",
                      "one of them is needed: a root that is there, or the "
                      "file for a new one");
    }
}

} // namespace

Result switchPortsCommand(Client& agent)
{
    Json reply = agent.call("status");
    return {kOk, reply, portsText(JsonField(reply, "status").at("ports"))};
}

Result switchStatusCommand(Client& agent, const SwitchArguments& arguments)
{
    if (!arguments.port.empty())
    {
        Json reply = agent.call("port", {{"port", arguments.port}});
        return {kOk, reply, portText(JsonField(reply, "reply").at("port"))};
    }
    Json reply = agent.call("status");
    JsonField status(reply, "status");
    std::string text = fmt::format(
        "bridge {}, rules at {}, leases of {} s, damage repaired {} times\n\n",
        textAt(status, "bridge"), textAt(status, "hooks"),
        numberAt(status, "lease-seconds"), numberAt(status, "damage"));
    return {kOk, reply, text + portsText(status.at("ports"))};
}

Result switchCutCommand(Client& agent, const SwitchArguments& arguments)
{
    Json reply = agent.call("cut", {{"port", arguments.port}});
    return {kOk, reply, portText(JsonField(reply, "reply").at("port"))};
}

Result switchEnrollCommand(Client& agent, const SwitchArguments& arguments)
{
    Json parameters = {{"port", arguments.port},
                       {"host", arguments.host},
                       {"method", arguments.method}};
    if (arguments.method != "quote")
    {
        addRoot(parameters, arguments);
    }
    if (arguments.key)
    {
        parameters["key"] = readTextFile(*arguments.key, maxKeyFile);
    }
    if (!arguments.address.empty())
    {
        parameters["address"] = arguments.address;
    }
    return stored(agent.call("enroll", std::move(parameters)),
                  arguments.output);
}

Result switchRotateCommand(Client& agent, const SwitchArguments& arguments)
{
    Json parameters = {{"port", arguments.port}};
    addRoot(parameters, arguments);
    return stored(agent.call("rotate", std::move(parameters)),
                  arguments.output);
}

} // namespace airlock::ctl
