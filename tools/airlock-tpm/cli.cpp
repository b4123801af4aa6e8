#include "tools/airlock-tpm/cli.hpp"

#include "common/secret.hpp"
#include "tools/airlock-tpm/commands.hpp"

#include <CLI/CLI.hpp>

#include <cstdlib>
#include <functional>

namespace airlock::tpmtool
{

namespace
{

using Command = std::function<Result(const Options&)>;

/** The options that several commands share, each in one place. */
class Arguments
{
  public:
    Arguments(CLI::App& app, Options& options, Command& chosen)
        : app_(app), options_(options), chosen_(chosen)
    {}

    Arguments& command(const char* name, const char* help, Command run)
    {
        it_ = app_.add_subcommand(name, help);
        it_->add_flag("--json", options_.json, "Print JSON");
        it_->callback([this, run = std::move(run)] { chosen_ = run; });
        return *this;
    }
    Arguments& tpm()
    {
        it_->add_option("--tcti", options_.tcti,
                        "Way to the TPM (default: $AIRLOCK_TCTI, or "
                        "device:/dev/tpmrm0)");
        return *this;
    }
    Arguments& policyKey()
    {
        text("--key", options_.key, "Policy key: PEM, public half", true);
        return ref();
    }
    Arguments& ref()
    {
        it_->add_option("--ref", options_.ref,
                        "Use of the policy (default: clean)");
        return *this;
    }
    Arguments& policies(bool needed)
    {
        return text("--policies", options_.policies, "File of signed policies",
                    needed);
    }
    Arguments& state(bool needed)
    {
        return text("--state", options_.state, "Directory of the enrolment",
                    needed);
    }
    Arguments& pcrs(bool needed)
    {
        return text("--pcrs", options_.pcrs, "PCRs, as in 0,2,4,11", needed);
    }
    Arguments& values()
    {
        pcrs(false);
        text("--pcr-file", options_.pcrFile, "JSON of PCR values", false);
        text("--log", options_.log, "Event log to replay", false);
        text("--from", options_.before, "Image that the log is of", false);
        it_->get_option("--from")->needs("--log");
        text("--to", options_.after, "Image to predict", false);
        it_->get_option("--to")->needs("--from");
        it_->get_option("--from")->needs("--to");
        return *this;
    }
    Arguments& context()
    {
        text("--nonce", options_.nonce, "Nonce of the verifier, hexadecimal",
             true);
        text("--role", options_.role, "Who quotes (default: boot-host)", false);
        text("--channel", options_.channel,
             "Exported key of the TLS connection, hexadecimal", false);
        return text("--about", options_.about, "What is asked for", false);
    }
    Arguments& output(bool needed)
    {
        return text("-o,--output", options_.output, "Write the result here",
                    needed);
    }
    Arguments& file(const char* name, const char* help)
    {
        it_->add_option(name, options_.file, help)->required();
        return *this;
    }
    Arguments& text(const char* name, std::string& to, const char* help,
                    bool needed)
    {
        CLI::Option* option = it_->add_option(name, to, help);
        option->required(needed);
        return *this;
    }
    Arguments& flag(const char* name, bool& to, const char* help)
    {
        it_->add_flag(name, to, help);
        return *this;
    }
    CLI::App& app() { return *it_; }

  private:
    CLI::App& app_;
    Options& options_;
    Command& chosen_;
    CLI::App* it_ = nullptr;
};

void addMachineCommands(Arguments& to, Options& options)
{
    to.command("enroll", "Make this machine's TPM ours", enroll)
        .tpm()
        .state(true)
        .policyKey()
        .policies(false);
    to.app()
        .add_option("--ek", options.endorsement,
                    "Kind of endorsement key (default: rsa)")
        ->check(CLI::IsMember({"rsa", "ecc"}));

    to.command("seal", "Seal a secret to this TPM and a policy key", seal)
        .tpm()
        .policyKey()
        .policies(false)
        .state(false)
        .output(true)
        .flag("--pin", options.pin, "Make it the one that is in force")
        .file("SECRET", "File with the secret, - for standard input");
    to.app().get_option("--pin")->needs("--state")->needs("--policies");

    to.command("unseal", "Print a secret", unseal)
        .tpm()
        .policyKey()
        .policies(true)
        .flag("--once", options.once, "Cap PCR 11 then, whether it worked")
        .flag("--pinned", options.pin, "Refuse all but the one in force")
        .file("BLOB", "What seal wrote");

    to.command("cap", "Shut what is sealed until the next restart", cap).tpm();
    to.app().add_option("--pcr", options.pcr, "PCR (default: 11)");

    to.command("pcrs", "Print PCR values", pcrs).tpm().pcrs(true);

    to.command("quote", "Have the TPM sign its PCR values", quote)
        .tpm()
        .pcrs(true)
        .context()
        .output(false);

    to.command("answer", "Answer the challenge of a verifier", answer)
        .tpm()
        .state(true)
        .policyKey()
        .policies(true)
        .output(true)
        .file("CHALLENGE", "What challenge wrote");

    to.command("generation",
               "Print or raise the oldest generation that may unseal",
               generation)
        .tpm()
        .state(false)
        .ref()
        .policies(false)
        .text("--key", options.key, "Policy key: PEM, public half", false);
    to.app()
        .add_option_function<std::uint64_t>(
            "--raise",
            [&options](std::uint64_t value) {
                options.raise = true;
                options.generation = value;
            },
            "Raise it to this")
        ->needs("--state")
        ->needs("--policies")
        ->needs("--key");
}

void addSiteCommands(Arguments& to, Options& options)
{
    to.command("sign-policy", "Approve the state of a machine", signPolicy)
        .text("--key", options.key, "Policy key: PEM, private half", true)
        .ref()
        .values()
        .output(true)
        .text("--name", options.name, "Which image, for people", true)
        .flag("--append", options.append, "Keep the policies in the file");
    to.app().add_option("--generation", options.generation,
                        "Generation of the image (default: 0)");

    to.command("eventlog", "Replay the log of a measured boot", eventLog)
        .file("LOG", "Binary log of the firmware");

    to.command("image", "Print what an image will be measured as", image)
        .file("IMAGE", "Unified kernel image");

    to.command("verify", "Check a quote; needs no TPM", verify)
        .text("--machine", options.machine, "What enroll wrote", true)
        .values()
        .context()
        .flag("--capped", options.capped, "The values are from before the cap")
        .file("QUOTE", "What quote wrote");

    to.command("challenge", "Ask a machine to show that its keys are in a TPM",
               challenge)
        .text("--machine", options.machine, "What enroll wrote", true)
        .text("--authorities", options.authorities,
              "Who issues endorsement certificates: PEM", false)
        .text("--ek-digest", options.endorsementDigest,
              "SHA-256 of the endorsement key, for a TPM without certificate",
              false)
        .text("--candidate", options.candidate,
              "Keep here what the answer is compared with", true)
        .output(true);

    to.command("admit", "Note a machine that has answered, and a good state",
               admit)
        .text("--candidate", options.candidate, "What challenge kept", false)
        .text("--answer", options.answer, "What the machine answered", false)
        .values()
        .text("--name", options.name, "Which image, for people", true)
        .flag("--capped", options.capped, "The values are from before the cap")
        .flag("--append", options.append, "Add the state to those in the file")
        .output(true);
    to.app().get_option("--candidate")->needs("--answer");
    to.app().get_option("--answer")->needs("--candidate");
}

int report(Result result, int code, const Options& options, std::ostream& out,
           std::ostream& err)
{
    // It may be what was unsealed.
    const WipedText text(std::move(result.text));
    const WipedJson json(std::move(result.json));
    if (options.json)
    {
        out << WipedText(dumpJson(json.json) + "\n").text;
    }
    else
    {
        out << text.text;
    }
    out.flush();
    if (!out)
    {
        err << "airlock-tpm: cannot write the output\n";
        return kFailed;
    }
    return code;
}

int execute(const Command& command, const Options& options, std::ostream& out,
            std::ostream& err)
{
    try
    {
        return report(command(options), kOk, options, out, err);
    }
    catch (const Refused& refused)
    {
        err << "airlock-tpm: refused: " << refused.what() << "\n";
        const Json json = {{"verdict", "refused"},
                           {"where", refused.where()},
                           {"reason", refused.reason()}};
        return report({json, ""}, kRefused, options, out, err);
    }
    catch (const std::exception& error)
    {
        err << "airlock-tpm: " << error.what() << "\n";
        return kFailed;
    }
}

} // namespace

int run(int argc, const char* const* argv, std::istream& in, std::ostream& out,
        std::ostream& err)
{
    CLI::App app("Seals secrets to a machine's TPM and boot state, quotes that "
                 "state and checks quotes.\n"
                 "Exit status: 0 done, 1 refused, 2 error.",
                 "airlock-tpm");
    app.require_subcommand(1);
    Options options;
    options.in = &in;
    if (const char* tcti = std::getenv("AIRLOCK_TCTI"))
    {
        options.tcti = tcti;
    }
    Command command;
    Arguments arguments(app, options, command);
    addMachineCommands(arguments, options);
    addSiteCommands(arguments, options);
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

} // namespace airlock::tpmtool
