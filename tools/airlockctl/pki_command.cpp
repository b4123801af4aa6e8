#include "common/file.hpp"
#include "common/pki.hpp"
#include "common/tls.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"

#include <fmt/format.h>

namespace airlock::ctl
{

namespace
{

constexpr std::size_t maxPem = 64U << 10;
constexpr mode_t certificateMode = 0644;
constexpr mode_t keyMode = 0600;

void writeNew(const std::filesystem::path& base, const pki::Credential& both)
{
    std::string stem = base.string();
    for (const char* suffix : {".crt", ".key"})
    {
        if (std::filesystem::exists(stem + suffix))
        {
            throw Refused(stem + suffix, "is there already; nothing was "
                                         "written");
        }
    }
    writeFileAtomic(stem + ".key", both.key, keyMode);
    writeFileAtomic(stem + ".crt", both.certificate, certificateMode);
}

std::string readPem(const std::filesystem::path& path)
{
    return readTextFile(path, maxPem);
}

std::string roleOf(const std::string& word)
{
    return word == "hostd"   ? tls::hostRole
           : word == "bootd" ? tls::bootRole
                             : tls::switchRole;
}

Json files(const std::filesystem::path& base)
{
    return {{"certificate", base.string() + ".crt"},
            {"key", base.string() + ".key"}};
}

} // namespace

Result pkiInit(const std::filesystem::path& directory, const std::string& name,
               std::chrono::hours validity)
{
    std::filesystem::create_directories(directory);
    pki::Validity times;
    times.end = validity;
    std::filesystem::path base = directory / "ca";
    writeNew(base, pki::makeAuthority(name, times));
    return {kOk, files(base),
            fmt::format("{0}.crt goes to every host; {0}.key stays where it "
                        "is, away from them\n",
                        base.string())};
}

Result pkiIssue(const IssueArguments& arguments)
{
    std::string plain = std::filesystem::path(arguments.name).filename();
    if (plain != arguments.name || plain.starts_with('.') || plain == "ca")
    {
        throw Refused("--name", printable(arguments.name) +
                                    " cannot be the name of a file here");
    }
    pki::Credential authority{readPem(arguments.directory / "ca.crt"),
                              readPem(arguments.directory / "ca.key")};
    pki::Subject subject{arguments.name, roleOf(arguments.role),
                         arguments.hosts};
    pki::Validity times;
    times.end = arguments.validity;
    std::filesystem::path base = arguments.directory / arguments.name;
    writeNew(base, pki::issue(authority, subject, times));
    return {kOk, files(base),
            fmt::format("{0}.crt and {0}.key are for the {1} on {2}\n",
                        base.string(), subject.role, arguments.name)};
}

} // namespace airlock::ctl
