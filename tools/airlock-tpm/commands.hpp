#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"

#include <cstdint>
#include <istream>
#include <string>

namespace airlock::tpmtool
{

/** What the arguments said; each command reads those that it has. */
struct Options
{
    bool json = false;
    std::string tcti = "device:/dev/tpmrm0";
    std::string state; ///< directory of the enrolment
    std::string key;   ///< PEM file: policy key, public or private half
    std::string ref = "clean";
    std::string policies; ///< file of signed policies
    std::string file;     ///< what the command is about
    std::string output;
    std::string endorsement = "rsa";
    std::string pcrs;    ///< "0,2,4"
    std::string pcrFile; ///< JSON of PCR values
    std::string log;     ///< event log
    std::string before;  ///< image of the log
    std::string after;   ///< image to predict
    std::string name;
    std::string nonce; ///< hexadecimal
    std::string role = "boot-host";
    std::string channel; ///< hexadecimal
    std::string about;
    std::string machine;           ///< machine.json
    std::string authorities;       ///< of endorsement certificates
    std::string endorsementDigest; ///< hexadecimal
    std::string candidate;         ///< file: a machine that was asked
    std::string answer;            ///< file: what it answered
    std::uint64_t generation = 0;
    bool raise = false;
    bool once = false;
    bool pin = false;
    bool append = false;
    bool capped = false;
    unsigned pcr = 11;
    std::istream* in = nullptr;
};

/** What a command wants to say. */
struct Result
{
    Json json;
    std::string text;
};

// On a machine with a TPM.
Result enroll(const Options& options);
Result seal(const Options& options);
Result unseal(const Options& options);
Result cap(const Options& options);
Result pcrs(const Options& options);
Result quote(const Options& options);
Result generation(const Options& options);
Result answer(const Options& options);

// Anywhere.
Result signPolicy(const Options& options);
Result eventLog(const Options& options);
Result image(const Options& options);
Result verify(const Options& options);
Result challenge(const Options& options);
Result admit(const Options& options);

// For both.
std::string readText(const std::string& path);
/** The bytes of an argument; Error naming it otherwise. */
Bytes hexOf(const std::string& text, const char* what);
/** The bytes of a file with one line of hexadecimal digits. */
Bytes readHex(const std::string& path);
std::string pcrText(const Json& values);

} // namespace airlock::tpmtool
