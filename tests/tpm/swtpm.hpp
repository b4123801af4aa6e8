#pragma once

#include "common/file.hpp"
#include "common/process.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::test
{

/** A software TPM of its own, on a Unix socket in a directory that goes away
 * with it. A machine without swtpm is a failure, never a skipped test. */
class Swtpm
{
  public:
    enum class Certificate
    {
        none,
        /** An endorsement certificate of a local authority: authority(). */
        issued,
    };

    explicit Swtpm(Certificate certificate = Certificate::none);

    /** For trust::Tpm. One connection at a time. */
    std::string tcti() const { return "swtpm:path=" + socket().string(); }

    /** As after TPM2_Shutdown and a power cycle. Nobody may be connected. */
    void restart();
    /** The power goes, without notice. */
    void pullThePlug();
    /** Makes this a clone of another one that is not running any more. */
    void becomeCloneOf(const Swtpm& other);

    /** The certificates (PEM) that endorsement certificates are checked with.
     */
    std::string authorities() const;

    /** Runs a program of tpm2-tools on it; an Error has what it said. */
    std::string tool(std::vector<std::string> argv) const;
    /** Whether that program is content. */
    bool toolAccepts(std::vector<std::string> argv) const;

    /** For the files of a test. */
    const std::filesystem::path& directory() const { return home_.path(); }

  private:
    std::filesystem::path socket() const { return home_.path() / "s"; }
    std::filesystem::path state() const { return home_.path() / "state"; }
    void manufacture();
    void start();
    void waitUntilItAnswers();
    ProcessOutput runTool(std::vector<std::string> argv) const;

    TempDirectory home_{"swtpm"};
    std::optional<Process> process_;
};

} // namespace airlock::test
