#include "common/file.hpp"
#include "hostagent/adopt/diff.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"
#include "tools/airlockctl/libvirt_domain.hpp"

#include <fmt/format.h>
#include <unistd.h>

namespace airlock::ctl
{

namespace
{

constexpr std::size_t maxFile = 4U << 20;

std::string readXml(const AdoptArguments& arguments,
                    std::optional<Libvirt>& libvirt)
{
    if (!arguments.domain.empty())
    {
        libvirt.emplace(arguments.uri);
        return libvirt->definition(arguments.domain, true);
    }
    Bytes bytes = arguments.file == "-"
                      ? readToEnd(STDIN_FILENO, maxFile, "standard input")
                      : readFile(arguments.file, maxFile);
    return {bytes.begin(), bytes.end()};
}

/** What will be, from where it comes. */
host::AdoptResult change(const AdoptArguments& arguments,
                         const std::string& xml,
                         const std::optional<Libvirt>& libvirt)
{
    if (!arguments.revert)
    {
        host::AdoptOptions options = arguments.options;
        if (libvirt)
        {
            options.original = libvirt->definition(arguments.domain, false);
        }
        return host::adopt(xml, options);
    }
    host::AdoptResult result;
    result.xml = host::revert(xml);
    result.changed = true;
    return result;
}

std::string diffOf(const std::string& before, const host::AdoptResult& result,
                   const AdoptArguments& arguments)
{
    if (!result.ok())
    {
        return "";
    }
    std::string name =
        arguments.domain.empty() ? arguments.file : arguments.domain;
    return host::unifiedDiff(
        host::readableXml(before), host::readableXml(result.xml), name,
        name + (arguments.revert ? " (reverted)" : " (adopted)"));
}

std::string findings(const host::AdoptResult& result)
{
    std::string out;
    for (const host::AdoptRefusal& refusal : result.refusals)
    {
        out += fmt::format("refused  {}: {}\n         {}\n", refusal.where,
                           refusal.reason, refusal.advice);
    }
    for (const host::AdoptNote& note : result.notes)
    {
        out += fmt::format("note     {}: {}\n", note.where, note.text);
    }
    return out;
}

Json toJson(const host::AdoptResult& result)
{
    Json notes = Json::array();
    for (const host::AdoptNote& note : result.notes)
    {
        notes.push_back({{"where", note.where}, {"text", note.text}});
    }
    Json refusals = Json::array();
    for (const host::AdoptRefusal& refusal : result.refusals)
    {
        refusals.push_back({{"where", refusal.where},
                            {"reason", refusal.reason},
                            {"advice", refusal.advice}});
    }
    return {{"ok", result.ok()},
            {"changed", result.changed},
            {"notes", notes},
            {"refusals", refusals},
            {"xml", result.xml}};
}

/** Defines the domain or writes the file; what was done, for people. */
std::string carryOut(const AdoptArguments& arguments,
                     const host::AdoptResult& result,
                     std::optional<Libvirt>& libvirt)
{
    if (!arguments.output.empty() && arguments.output != "-")
    {
        // Passwords may be in it.
        writeFileAtomic(arguments.output, result.xml, 0600);
        return "written to " + arguments.output + "\n";
    }
    if (!arguments.apply)
    {
        return libvirt && result.changed
                   ? "nothing was changed; --apply defines the domain so\n"
                   : "";
    }
    if (!result.changed)
    {
        return "the domain is like this already\n";
    }
    libvirt->define(result.xml);
    return libvirt->active(arguments.domain)
               ? "defined; it takes effect when the guest is stopped and "
                 "started again\n"
               : "defined\n";
}

std::string textOf(const AdoptArguments& arguments,
                   const host::AdoptResult& result, const std::string& diff,
                   const std::string& done)
{
    if (arguments.output == "-")
    {
        return result.xml;
    }
    if (arguments.diffOnly)
    {
        return result.ok() ? diff : findings(result);
    }
    std::string out = findings(result);
    if (!result.ok())
    {
        return out + "not adopted: change what is refused and try again\n";
    }
    if (diff.empty())
    {
        return out + "nothing to change\n" + done;
    }
    return out + (out.empty() ? "" : "\n") + diff + done;
}

} // namespace

Result adoptCommand(const AdoptArguments& arguments)
{
    std::optional<Libvirt> libvirt;
    std::string before = readXml(arguments, libvirt);
    host::AdoptResult result = change(arguments, before, libvirt);
    // What is shown ends in terminals' histories and logs.
    std::string shownBefore =
        libvirt ? libvirt->definition(arguments.domain, false) : before;
    host::AdoptResult shown =
        libvirt ? change(arguments, shownBefore, libvirt) : result;
    std::string diff = diffOf(shownBefore, shown, arguments);
    std::string done;
    if (result.ok())
    {
        done = carryOut(arguments, result, libvirt);
    }
    Json json = toJson(arguments.output == "-" ? result : shown);
    json["diff"] = diff;
    json["applied"] = arguments.apply && result.ok() && result.changed;
    return {result.ok() ? kOk : kRefused, json,
            textOf(arguments, result, diff, done)};
}

} // namespace airlock::ctl
