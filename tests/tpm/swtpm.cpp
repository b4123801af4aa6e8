#include "tests/tpm/swtpm.hpp"

#include "common/deadline.hpp"
#include "trust/tpm.hpp"

#include <cstdlib>
#include <thread>

namespace airlock::test
{

namespace
{

void requireOk(const ProcessOutput& output, const std::string& what)
{
    if (!output.status.ok())
    {
        throw Error(what + ": " + output.status.describe() + "\n" + output.out +
                    output.err);
    }
}

} // namespace

Swtpm::Swtpm(Certificate certificate)
{
    std::filesystem::create_directory(state());
    if (certificate == Certificate::issued)
    {
        manufacture();
    }
    start();
}

void Swtpm::manufacture()
{
    const std::filesystem::path ca = home_.path() / "ca";
    std::filesystem::create_directory(ca);
    writeFileAtomic(home_.path() / "localca.conf",
                    "statedir = " + ca.string() +
                        "\nsigningkey = " + (ca / "signkey.pem").string() +
                        "\nissuercert = " + (ca / "issuercert.pem").string() +
                        "\ncertserial = " + (ca / "certserial").string() +
                        "\n");
    writeFileAtomic(home_.path() / "localca.options", "");
    writeFileAtomic(
        home_.path() / "setup.conf",
        "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = " +
            (home_.path() / "localca.conf").string() +
            "\ncreate_certs_tool_options = " +
            (home_.path() / "localca.options").string() + "\n");
    SpawnOptions options;
    options.argv = {"swtpm_setup",
                    "--tpm2",
                    "--tpmstate",
                    state(),
                    "--config",
                    home_.path() / "setup.conf",
                    "--create-ek-cert",
                    "--pcr-banks",
                    "sha256",
                    "--vmid",
                    "test"};
    requireOk(runProgram(options), "swtpm_setup");
}

void Swtpm::start()
{
    const std::filesystem::path control = socket().string() + ".ctrl";
    std::filesystem::remove(socket());
    std::filesystem::remove(control);
    SpawnOptions options;
    options.argv = {"swtpm",
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    "dir=" + state().string(),
                    "--server",
                    "type=unixio,path=" + socket().string(),
                    "--ctrl",
                    "type=unixio,path=" + control.string(),
                    "--flags",
                    "not-need-init,startup-clear"};
    // It writes a line for each command.
    options.stdoutFd = -1;
    options.stderrFd = -1;
    process_.emplace(options);
    waitUntilItAnswers();
}

void Swtpm::waitUntilItAnswers()
{
    const Deadline deadline(std::chrono::seconds(20));
    for (;;)
    {
        // The sockets are there before somebody listens on them.
        try
        {
            const trust::Tpm probe(tcti());
            return;
        }
        catch (const trust::TpmError&)
        {
            if (deadline.passed() || !process_->running())
            {
                throw;
            }
        }
        std::this_thread::sleep_for(Milliseconds(5));
    }
}

void Swtpm::restart()
{
    {
        const trust::Tpm tpm(tcti());
        trust::check(Esys_Shutdown(tpm.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                                   ESYS_TR_NONE, TPM2_SU_CLEAR),
                     "shutdown");
    }
    process_->terminate();
    start();
}

void Swtpm::pullThePlug()
{
    process_->kill();
    start();
}

void Swtpm::becomeCloneOf(const Swtpm& other)
{
    process_->kill();
    std::filesystem::remove_all(state());
    std::filesystem::copy(other.state(), state());
    start();
}

std::string Swtpm::authorities() const
{
    std::string out;
    for (const char* name : {"issuercert.pem", "swtpm-localca-rootca-cert.pem"})
    {
        out += readTextFile(home_.path() / "ca" / name, 1U << 20);
    }
    return out;
}

ProcessOutput Swtpm::runTool(std::vector<std::string> argv) const
{
    SpawnOptions options;
    options.argv = std::move(argv);
    options.workingDirectory = home_.path();
    options.env = {"TPM2TOOLS_TCTI=" + tcti(), "TSS2_LOG=all+none",
                   std::string("PATH=") + std::getenv("PATH")};
    return runProgram(options);
}

std::string Swtpm::tool(std::vector<std::string> argv) const
{
    const std::string name = argv.at(0);
    ProcessOutput output = runTool(std::move(argv));
    requireOk(output, name);
    return output.out;
}

bool Swtpm::toolAccepts(std::vector<std::string> argv) const
{
    return runTool(std::move(argv)).status.ok();
}

} // namespace airlock::test
