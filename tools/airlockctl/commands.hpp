#pragma once

#include "common/json.hpp"
#include "hostagent/adopt/adopt.hpp"
#include "hostagent/control/client.hpp"

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace airlock::ctl
{

/** What a command wants to say, in both forms, and its exit code. */
struct Result
{
    int code = 0;
    Json json;
    std::string text;
};

struct AdoptArguments
{
    std::string domain; ///< name or UUID; empty: `file`
    std::string file;   ///< "-": standard input
    std::string uri = "qemu:///system";
    std::string output; ///< with `file`: where the XML goes, "-": text
    bool diffOnly = false;
    bool apply = false;
    bool revert = false;
    host::AdoptOptions options;
};

Result adoptCommand(const AdoptArguments& arguments);

Result listCommand(host::control::Client& agent, bool namesOnly);
Result statusCommand(host::control::Client& agent, const std::string& vm);

struct JobsArguments
{
    std::optional<std::string> vm;
    std::optional<std::string> tenant;
    std::optional<std::string> server;
    std::optional<std::string> result;
    bool open = false;
    std::size_t limit = 20;
    std::optional<std::chrono::seconds> since; ///< after 1970
};

Result jobsCommand(host::control::Client& agent,
                   const JobsArguments& arguments);

/** One line of an event. */
std::string eventLine(const Json& event);
Result eventsCommand(host::control::Client& agent);
/** "retry" or "release"; only the latter discards. */
Result heldCommand(host::control::Client& agent, const std::string& method,
                   const std::string& vm, bool discardDelta = false);

/** A new authority: ca.crt and ca.key in a directory. */
Result pkiInit(const std::filesystem::path& directory, const std::string& name,
               std::chrono::hours validity);

struct IssueArguments
{
    std::filesystem::path directory;
    std::string role; ///< "hostd", "bootd" or "switchd"
    std::string name;
    std::vector<std::string> hosts;
    std::chrono::hours validity{24 * 825};
};

/** NAME.crt and NAME.key beside the authority. */
Result pkiIssue(const IssueArguments& arguments);

struct SwitchArguments
{
    std::string port;
    std::string host;
    std::string method = "mac96";
    std::optional<std::filesystem::path> root;   ///< read from
    std::optional<std::filesystem::path> output; ///< a new one goes to
    std::optional<std::filesystem::path> key;
    std::string address;
};

Result switchPortsCommand(control::Client& agent);
Result switchStatusCommand(control::Client& agent,
                           const SwitchArguments& arguments);
Result switchCutCommand(control::Client& agent,
                        const SwitchArguments& arguments);
Result switchEnrollCommand(control::Client& agent,
                           const SwitchArguments& arguments);
Result switchRotateCommand(control::Client& agent,
                           const SwitchArguments& arguments);

struct CheckArguments
{
    std::filesystem::path config = "/etc/airlock/hostd.toml";
    /** Instead of what the configuration says. */
    std::optional<std::string> uri;
    std::optional<std::filesystem::path> socket;
};

Result checkCommand(const CheckArguments& arguments);

} // namespace airlock::ctl
