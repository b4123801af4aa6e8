#include "tools/airlock-bundle/cli.hpp"

#include "common/file.hpp"
#include "devmodel/handover/admit.hpp"
#include "devmodel/handover/guest_memory.hpp"
#include "devmodel/handover/reduce.hpp"
#include "tools/airlock-bundle/compare.hpp"
#include "tools/airlock-bundle/report.hpp"
#include "tools/airlock-bundle/state_file.hpp"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>

namespace airlock::bundletool
{

using namespace handover;

namespace
{

constexpr std::string_view kProductionMachine = "airlock-1.0";

struct Options
{
    bool json = false;
    std::string file;
    std::string other;       ///< second file, or the reference
    std::string output;      ///< empty: none
    std::string memory;      ///< verify: file with the guest's RAM
    std::string accelerator; ///< empty: the bundle's, or "tcg"
    std::string cpu;         ///< model; empty: the bundle's, or "Nehalem"
};

/** What a command wants to say and its exit code. */
struct Result
{
    int code = kOk;
    Json json;
    std::string text;
};

void writeOutput(const std::string& path, ByteView data)
{
    if (!path.empty())
    {
        writeFileAtomic(path, data);
    }
}

Result inspect(const Options& options)
{
    StateFile file = openStateFile(options.file);
    return {kOk, inspectJson(file), inspectText(file)};
}

Result reduceCommand(const Options& options)
{
    StateFile file = openStateFile(options.file);
    Reduced reduced = reduce(std::move(file.sections));
    Bytes stream = writeProductionStream(kProductionMachine, reduced.kept);
    writeOutput(options.output, stream);
    return {kOk, reduceJson(reduced, stream.size()),
            reduceText(reduced, stream.size())};
}

Result diff(const Options& options)
{
    Differences differences =
        compare(openStateFile(options.file), openStateFile(options.other));
    return {differences.none() ? kOk : kRefused, diffJson(differences),
            diffText(differences)};
}

/** The memory that the candidate will run with: its bundle's, or a file. */
class Memory
{
  public:
    Memory(const StateFile& candidate, const Options& options)
    {
        if (options.memory.empty() && !candidate.bundle)
        {
            throw Error("a stream is checked against the guest's memory: "
                        "give --memory, or a bundle");
        }
        if (options.memory.empty())
        {
            fd_ = candidate.bundle->memoryFd();
            return;
        }
        file_ = openFile(options.memory, O_RDONLY);
        fd_ = file_.get();
    }

    int fd() const { return fd_; }

  private:
    UniqueFd file_;
    int fd_ = -1;
};

unsigned countCpus(const std::vector<Section>& sections)
{
    return static_cast<unsigned>(std::count_if(
        sections.begin(), sections.end(),
        [](const Section& section) { return section.id.idstr == "cpu"; }));
}

std::string acceleratorOf(const StateFile& candidate, const Options& options)
{
    if (options.accelerator.empty() && candidate.bundle)
    {
        return candidate.bundle->manifest().guest.accelerator;
    }
    return options.accelerator;
}

std::string modelOf(const StateFile& candidate, const Options& options)
{
    if (options.cpu.empty() && candidate.bundle)
    {
        return candidate.bundle->manifest().guest.cpuModel;
    }
    return options.cpu.empty() ? "Nehalem" : options.cpu;
}

/** What the hand-over makes sure of while it copies the memory. */
void checkBundle(const Bundle& bundle, const StateFile& reference)
{
    const GuestShape& guest = bundle.manifest().guest;
    if (guest.productionMachine != reference.machine)
    {
        throw Refused("manifest: guest.production-machine",
                      fmt::format("is {}, the reference is of {}",
                                  guest.productionMachine, reference.machine));
    }
    bundle.memoryDigest().requireSame(
        describeMemory(bundle.memoryFd(), guest.memoryBytes).digest);
}

Environment environmentFor(const StateFile& candidate,
                           const StateFile& reference, const Memory& memory,
                           const Options& options)
{
    Environment environment = Environment::forMemory(fileSize(memory.fd()));
    environment.vcpus = countCpus(reference.sections);
    environment.accelerator = acceleratorOf(candidate, options) == "kvm"
                                  ? Accelerator::Kvm
                                  : Accelerator::Tcg;
    environment.cpu = CpuContract::forModel(modelOf(candidate, options),
                                            environment.accelerator);
    GuestMemory guest(memory.fd(), environment.ramLow, environment.ramHigh);
    environment.read = [guest](std::uint64_t address,
                               std::span<std::uint8_t> out) {
        return guest.read(address, out);
    };
    return environment;
}

Result verify(const Options& options)
{
    StateFile reference = openStateFile(options.other);
    if (!reference.production)
    {
        throw Error(options.other + ": a reference is what the production "
                                    "machine saved, this is another stream");
    }
    StateFile candidate = openStateFile(options.file);
    if (candidate.bundle)
    {
        checkBundle(*candidate.bundle, reference);
    }
    Memory memory(candidate, options);
    Environment environment =
        environmentFor(candidate, reference, memory, options);
    std::vector<Section> admitted =
        admit(reduce(std::move(candidate.sections)).kept, reference.sections,
              environment);
    Bytes stream = writeProductionStream(reference.machine, admitted);
    writeOutput(options.output, stream);
    return {kOk,
            {{"verdict", "admitted"},
             {"sections", admitted.size()},
             {"bytes", stream.size()}},
            fmt::format("admitted: {} sections, {} bytes\n", admitted.size(),
                        stream.size())};
}

using Command = std::function<Result(const Options&)>;

CLI::App* addCommand(CLI::App& app, const char* name, const char* help,
                     Options& options, Command& chosen, Command command)
{
    CLI::App* sub = app.add_subcommand(name, help);
    sub->add_flag("--json", options.json, "Print JSON");
    sub->callback(
        [&chosen, command = std::move(command)] { chosen = command; });
    return sub;
}

void addVerify(CLI::App& app, Options& options, Command& chosen)
{
    CLI::App* sub = addCommand(
        app, "verify",
        "Check a device state as the production machine would on loading it",
        options, chosen, verify);
    sub->add_option("CANDIDATE", options.file, "Stream or bundle")->required();
    sub->add_option("--reference", options.other,
                    "What the trapped production machine saved")
        ->required();
    sub->add_option("--memory", options.memory,
                    "File with the guest's RAM (default: the bundle's)");
    sub->add_option("--accel", options.accelerator,
                    "Accelerator of the guest (default: the bundle's, or tcg)")
        ->check(CLI::IsMember({"tcg", "kvm"}));
    sub->add_option("--cpu", options.cpu,
                    "Its CPU model (default: the bundle's, or Nehalem)");
    sub->add_option("-o,--output", options.output,
                    "Write the admitted stream here");
}

void addCommands(CLI::App& app, Options& options, Command& chosen)
{
    app.require_subcommand(1);
    CLI::App* sub =
        addCommand(app, "inspect", "List the sections of a device state",
                   options, chosen, inspect);
    sub->add_option("FILE", options.file, "Stream or bundle")->required();

    sub = addCommand(app, "reduce",
                     "Drop the state of devices that the production machine "
                     "does not have",
                     options, chosen, reduceCommand);
    sub->add_option("FILE", options.file, "Stream or bundle")->required();
    sub->add_option("-o,--output", options.output, "Write the result here")
        ->required();

    addVerify(app, options, chosen);

    sub = addCommand(app, "diff", "Compare two device states", options, chosen,
                     diff);
    sub->add_option("A", options.file, "Stream or bundle")->required();
    sub->add_option("B", options.other, "Stream or bundle")->required();
}

int report(const Result& result, bool json, std::ostream& out,
           std::ostream& err)
{
    out << (json ? dumpJson(result.json) + "\n" : result.text);
    out.flush();
    if (!out)
    {
        err << "airlock-bundle: cannot write the output\n";
        return kFailed;
    }
    return result.code;
}

int execute(const Command& command, const Options& options, std::ostream& out,
            std::ostream& err)
{
    try
    {
        return report(command(options), options.json, out, err);
    }
    catch (const Refused& refused)
    {
        err << "airlock-bundle: refused: " << refused.what() << "\n";
        Json json = {{"verdict", "refused"},
                     {"where", refused.where()},
                     {"reason", refused.reason()}};
        return report({kRefused, json, ""}, options.json, out, err);
    }
    catch (const std::exception& error)
    {
        err << "airlock-bundle: " << error.what() << "\n";
        return kFailed;
    }
}

} // namespace

int run(int argc, const char* const* argv, std::ostream& out, std::ostream& err)
{
    CLI::App app("Looks at, reduces and checks device states on their way from "
                 "the boot machine to the production machine.\n"
                 "Exit status: 0 done, 1 refused or different, 2 error.",
                 "airlock-bundle");
    Options options;
    Command command;
    addCommands(app, options, command);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error, out, err) == 0 ? kOk : kFailed;
    }
    return execute(command, options, out, err);
}

} // namespace airlock::bundletool
