#include "common/table.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"

#include <fmt/format.h>

#include <algorithm>

/** What the host agent is asked over its control socket. Its replies are read
 * as strictly as any other input. */
namespace airlock::ctl
{

using host::control::Client;

namespace
{

constexpr std::size_t maxText = 4096;

std::string textAt(const JsonField& object, std::string_view name)
{
    auto field = object.find(name);
    return field ? field->string(maxText) : "";
}

std::string numberAt(const JsonField& object, std::string_view name)
{
    return std::to_string(object.at(name).u64());
}

/** "2026-11-21 16:30:05" from "2026-11-21T16:30:05.123Z" */
std::string shortTime(std::string time)
{
    std::replace(time.begin(), time.end(), 'T', ' ');
    return time.substr(0, 19);
}

template <typename Action>
void eachOf(const JsonField& array, Action&& action)
{
    for (std::size_t i = 0; i < array.arraySize(); i++)
    {
        action(array.element(i));
    }
}

Table vmTable()
{
    return Table({{"name"},
                  {"state"},
                  {"since (UTC)"},
                  {"reboots", Table::Align::right},
                  {"boot server"},
                  {"reason"}});
}

void addVm(Table& table, const JsonField& vm)
{
    table.row({textAt(vm, "name"), textAt(vm, "state"),
               shortTime(textAt(vm, "since")), numberAt(vm, "generation"),
               textAt(vm, "boot_server"), textAt(vm, "reason")});
}

/** Seconds of the host agent's stages together; those of the boot server are
 * within "booting". */
std::string total(const JsonField& seconds)
{
    double sum = 0;
    for (const auto& [stage, value] : seconds.json().items())
    {
        bool outer = std::ranges::any_of(
            host::allStates, [&stage = stage](host::State state) {
                return host::toString(state) == stage;
            });
        sum += outer ? JsonField(value, "seconds").number() : 0;
    }
    return sum > 0 ? fmt::format("{:.1f}", sum) : "";
}

std::string jobsText(const JsonField& jobs)
{
    Table table({{"started (UTC)"},
                 {"vm"},
                 {"tenant"},
                 {"boot server"},
                 {"seconds", Table::Align::right},
                 {"result"},
                 {"job"}});
    eachOf(jobs, [&](const JsonField& job) {
        std::string result = textAt(job, "result");
        bool open = !job.find("ended");
        table.row({shortTime(textAt(job, "started")), textAt(job, "name"),
                   textAt(job, "tenant"), textAt(job, "server"),
                   total(job.at("seconds")), open ? "(open)" : result,
                   textAt(job, "id")});
    });
    return table.empty() ? "no jobs\n" : table.render();
}

std::string vmText(const JsonField& vm)
{
    std::string out;
    auto line = [&](const char* title, const std::string& value) {
        if (!value.empty())
        {
            out += fmt::format("{:<12} {}\n", title, value);
        }
    };
    line("name", textAt(vm, "name"));
    line("uuid", textAt(vm, "uuid"));
    line("state", textAt(vm, "state") + " since " +
                      shortTime(textAt(vm, "since")) + " UTC");
    line("reason", textAt(vm, "reason"));
    line("reboots", numberAt(vm, "generation"));
    line("attempts", numberAt(vm, "attempts"));
    line("boot server", textAt(vm, "boot_server"));
    line("job", textAt(vm, "job"));
    return out;
}

} // namespace

Result listCommand(Client& agent, bool namesOnly)
{
    Json reply = agent.call("list");
    JsonField vms = JsonField(reply, "list").at("vms");
    Table table = vmTable();
    std::string names;
    eachOf(vms, [&](const JsonField& vm) {
        addVm(table, vm);
        names += textAt(vm, "name") + "\n";
    });
    std::string text = table.empty() ? "no airlock domains\n" : table.render();
    return {kOk, reply, namesOnly ? names : text};
}

Result statusCommand(Client& agent, const std::string& vm)
{
    Json reply = agent.call("status", {{"vm", vm}});
    JsonField field(reply, "status");
    return {kOk, reply,
            vmText(field.at("vm")) + "\n" + jobsText(field.at("jobs"))};
}

Result jobsCommand(Client& agent, const JobsArguments& arguments)
{
    Json parameters = {{"limit", arguments.limit}, {"open", arguments.open}};
    auto add = [&](const char* name, const std::optional<std::string>& value) {
        if (value)
        {
            parameters[name] = *value;
        }
    };
    add("vm", arguments.vm);
    add("tenant", arguments.tenant);
    add("server", arguments.server);
    add("result", arguments.result);
    if (arguments.since)
    {
        parameters["since"] =
            std::max<std::int64_t>(arguments.since->count(), 0);
    }
    Json reply = agent.call("jobs", parameters);
    JsonField field(reply, "jobs");
    std::string text = jobsText(field.at("jobs"));
    if (auto truncated = field.find("truncated");
        truncated && truncated->boolean())
    {
        text += "there are more; narrow the search\n";
    }
    return {kOk, reply, text};
}

namespace
{

/** "demo exporting boot_server=boot1 job=…": what people look for. */
std::string stateLine(const JsonField& vm)
{
    std::string out = fmt::format(" {} {}", plainText(textAt(vm, "name")),
                                  plainText(textAt(vm, "state")));
    for (const char* key : {"boot_server", "job", "reason"})
    {
        if (std::string text = textAt(vm, key); !text.empty())
        {
            out += fmt::format(" {}={}", key, printable(text, 200));
        }
    }
    return out + "\n";
}

} // namespace

std::string eventLine(const Json& event)
{
    JsonField field(event, "event");
    std::string out = shortTime(textAt(field, "time"));
    if (auto vm = field.find("vm"); vm && textAt(field, "what") == "state")
    {
        return out + stateLine(*vm);
    }
    auto add = [&](const std::string& key, const Json& value) {
        std::string text =
            value.is_string() ? value.get<std::string>() : dumpJson(value);
        if (key != "time" && !text.empty())
        {
            out += fmt::format(" {}={}", key, printable(text, 200));
        }
    };
    for (const auto& [key, value] : event.items())
    {
        if (!value.is_object())
        {
            add(key, value);
            continue;
        }
        for (const auto& [inner, part] : value.items())
        {
            if (!part.is_object())
            {
                add(key + "." + inner, part);
            }
        }
    }
    return out + "\n";
}

Result eventsCommand(Client& agent)
{
    Json reply = agent.call("events");
    std::string text;
    eachOf(JsonField(reply, "events").at("events"),
           [&](const JsonField& event) { text += eventLine(event.json()); });
    return {kOk, reply, text.empty() ? "no events\n" : text};
}

Result heldCommand(Client& agent, const std::string& method,
                   const std::string& vm, bool discardDelta)
{
    Json parameters = {{"vm", vm}};
    if (discardDelta)
    {
        parameters["discard-delta"] = true;
    }
    Json reply = agent.call(method, parameters);
    return {kOk, reply, vmText(JsonField(reply, method).at("vm"))};
}

} // namespace airlock::ctl
