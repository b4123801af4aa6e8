#include "common/file.hpp"
#include "common/table.hpp"
#include "tools/airlock-tpm/commands.hpp"
#include "trust/machine.hpp"
#include "trust/policy.hpp"
#include "trust/quote_reference.hpp"
#include "trust/sealed_blob.hpp"
#include "trust/uki.hpp"

#include <fcntl.h>
#include <fmt/format.h>

namespace airlock::tpmtool
{

using namespace trust;

namespace
{

constexpr std::size_t maxText = 1U << 20;

Key readPrivateKey(const std::string& path)
{
    Bytes bytes = readFile(path, maxText);
    const Secret pem{ByteView(bytes)};
    wipe(bytes);
    return privateKeyFromPem(asText(pem.view()), path);
}

EventLog readLog(const std::string& path)
{
    return EventLog::parse(readFile(path, EventLog::maxSize + 1));
}

Uki readImage(const std::string& path)
{
    UniqueFd file = openFile(path, O_RDONLY);
    const Mapping mapping(file.get(), fileSize(file.get()),
                          Mapping::Access::read);
    return Uki::parse(mapping.view(), path);
}

PcrValues readPcrFile(const std::string& path)
{
    const Json document = parseJson(readText(path), path, {maxText, 4});
    return pcrValuesFrom(JsonField(document, path));
}

/** PCRs without an event in the log hold zeros. */
PcrValues fromLog(const PcrSelection& selection, const PcrValues& values)
{
    PcrValues out;
    for (unsigned number : selection.list())
    {
        auto found = values.find(number);
        out[number] = found == values.end() ? Digest{} : found->second;
    }
    return out;
}

/** A file says what it says: what it leaves out is not known. */
PcrValues fromFile(const PcrSelection& selection, const PcrValues& values)
{
    PcrValues out;
    for (unsigned number : selection.list())
    {
        auto found = values.find(number);
        if (found == values.end())
        {
            throw Refused("--pcr-file", fmt::format("has no PCR {}", number));
        }
        out[number] = found->second;
    }
    return out;
}

/** Anybody can write a log: this one has to be of the boot that has these
 * values. */
void requireSameBoot(const EventLog& log, const PcrValues& measured)
{
    const std::string wrong = differences(
        fromLog(PcrSelection::of(measured), log.replay()), measured);
    if (!wrong.empty())
    {
        throw Refused("--log", "is not of the boot with the values of "
                               "--pcr-file: " +
                                   wrong);
    }
}

/** From a file of values, from a log, or from a log and the next image. */
PcrValues wantedPcrs(const Options& options)
{
    const bool hasFile = !options.pcrFile.empty();
    const PcrValues listed =
        hasFile ? readPcrFile(options.pcrFile) : PcrValues();
    if (!hasFile && (options.log.empty() || options.pcrs.empty()))
    {
        throw Error("give --pcr-file, or --log with --pcrs");
    }
    const PcrSelection selection =
        options.pcrs.empty() ? PcrSelection::of(listed)
                             : PcrSelection::parse(options.pcrs, "--pcrs");
    const PcrValues measured =
        hasFile ? fromFile(selection, listed) : PcrValues();
    if (options.log.empty())
    {
        return measured;
    }
    const EventLog log = readLog(options.log);
    if (hasFile)
    {
        requireSameBoot(log, measured);
    }
    return fromLog(selection, options.after.empty()
                                  ? log.replay()
                                  : predict(log, readImage(options.before),
                                            readImage(options.after)));
}

} // namespace

std::string readText(const std::string& path)
{
    return readTextFile(path, maxText);
}

Bytes hexOf(const std::string& text, const char* what)
{
    auto out = fromHex(text);
    if (!out)
    {
        throw Error(std::string(what) +
                    " is not hexadecimal: " + printable(text));
    }
    return *out;
}

std::string pcrText(const Json& values)
{
    Table table({{"PCR", Table::Align::right}, {"SHA-256"}});
    for (unsigned number = 0; number < pcrCount; ++number)
    {
        const std::string key = std::to_string(number);
        if (values.contains(key))
        {
            table.row({key, values[key].get<std::string>()});
        }
    }
    return table.render();
}

Bytes readHex(const std::string& path)
{
    std::string text = readText(path);
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r'))
    {
        text.pop_back();
    }
    return hexOf(text, path.c_str());
}

Result signPolicy(const Options& options)
{
    const Key key = readPrivateKey(options.key);
    const SignedPolicy policy = SignedPolicy::sign(
        key, {options.name, options.generation, wantedPcrs(options)},
        options.ref);
    std::vector<SignedPolicy> all;
    if (options.append && std::filesystem::exists(options.output))
    {
        all = readPolicies(options.output);
    }
    all.push_back(policy);
    writePolicies(options.output, all);
    return {policy.toJson(),
            fmt::format("{} approved as {}, generation {}, PCR {}\n",
                        printable(options.name), options.ref,
                        options.generation,
                        PcrSelection::of(policy.state.pcrs).text())};
}

Result eventLog(const Options& options)
{
    const EventLog log = readLog(options.file);
    Json events = Json::array();
    for (const Event& event : log.events())
    {
        events.push_back({{"pcr", event.pcr},
                          {"type", event.type},
                          {"digest", toHex(event.digest)},
                          {"measured", event.measured},
                          {"data-matches", event.dataMatches}});
    }
    const Json values = toJson(log.replay());
    return {{{"pcrs", values}, {"events", events}},
            fmt::format("{} events\n", log.events().size()) + pcrText(values)};
}

Result image(const Options& options)
{
    const Uki uki = readImage(options.file);
    Json digests = Json::object();
    Table table({{"part"}, {"SHA-256"}});
    for (const auto& [name, digest] : uki.digests())
    {
        digests[name] = toHex(digest);
        table.row({name, toHex(digest)});
    }
    table.row({"PCR 11", toHex(uki.pcr11())});
    return {{{"digests", digests}, {"pcr11", toHex(uki.pcr11())}},
            table.render()};
}

Result verify(const Options& options)
{
    const Json document =
        parseJson(readText(options.machine), options.machine, {maxText, 4});
    const Machine machine =
        Machine::parse(JsonField(document, options.machine));
    const AttestationKey key =
        AttestationKey::parse(machine.attestation, "attestation key");
    QuoteExpectation expected;
    expected.extraData =
        qualifyingData({options.role, hexOf(options.nonce, "--nonce"),
                        hexOf(options.channel, "--channel"), options.about});
    expected.pcrs = wantedPcrs(options);
    if (options.capped)
    {
        expected.pcrs = trust::capped(expected.pcrs, options.pcr);
    }
    const QuoteVerdict verdict = verifyQuote(
        key, Quote::parse(readText(options.file), options.file), expected);
    return {{{"verdict", "good"},
             {"clock", verdict.clock.clock},
             {"reset-count", verdict.clock.resetCount},
             {"restart-count", verdict.clock.restartCount},
             {"firmware-version", verdict.firmwareVersion}},
            fmt::format("good: PCR {}, reset count {}\n",
                        PcrSelection::of(expected.pcrs).text(),
                        verdict.clock.resetCount)};
}

namespace
{

Machine readMachineFile(const std::string& path)
{
    const Json document = parseJson(readText(path), path, {maxText, 4});
    return Machine::parse(JsonField(document, path));
}

EndorsementTrust endorsementTrust(const Options& options)
{
    EndorsementTrust out;
    if (!options.authorities.empty())
    {
        out.authorities = readText(options.authorities);
    }
    if (!options.endorsementDigest.empty())
    {
        auto digest = digestFromHex(options.endorsementDigest);
        if (!digest)
        {
            throw Error("--ek-digest is not 64 hexadecimal digits");
        }
        out.known.insert(*digest);
    }
    return out;
}

/** The key of a machine that has answered: one try, the candidate is gone
 * then. */
AttestationKey admittedKey(const Options& options)
{
    const Json document =
        parseJson(readText(options.candidate), options.candidate, {maxText, 4});
    Candidate candidate =
        Candidate::parse(JsonField(document, options.candidate));
    std::filesystem::remove(options.candidate);
    candidate.requireAnswer(readHex(options.answer));
    return AttestationKey::parse(candidate.machine().attestation,
                                 "attestation key");
}

QuoteReference referenceFor(const Options& options)
{
    std::optional<QuoteReference> known;
    if (options.append && std::filesystem::exists(options.output))
    {
        known = QuoteReference::parse(readText(options.output));
    }
    if (!options.candidate.empty())
    {
        QuoteReference out{admittedKey(options), {}};
        if (known && known->key.publicArea() != out.key.publicArea())
        {
            throw Refused(options.output, "is of another machine");
        }
        return known ? std::move(*known) : std::move(out);
    }
    if (!known)
    {
        throw Error("give --candidate and --answer, or --append and a file "
                    "that is there");
    }
    return std::move(*known);
}

} // namespace

Result challenge(const Options& options)
{
    const Candidate candidate(readMachineFile(options.machine),
                              endorsementTrust(options));
    writeFileAtomic(options.candidate, dumpJson(candidate.toJson()) + "\n",
                    0600);
    writeFileAtomic(options.output,
                    toHex(candidate.credential().marshal()) + "\n");
    return {{{"candidate", options.candidate}, {"challenge", options.output}},
            fmt::format("{} is for the machine; {} stays here until it has "
                        "answered\n",
                        options.output, options.candidate)};
}

Result admit(const Options& options)
{
    PcrValues pcrs = wantedPcrs(options);
    if (options.capped)
    {
        pcrs = trust::capped(pcrs, options.pcr);
    }
    QuoteReference reference = referenceFor(options);
    reference.states.push_back({options.name, pcrs});
    // It has to be what a verifier takes.
    const std::string text = QuoteReference::parse(reference.toText()).toText();
    writeFileAtomic(options.output, text + "\n");
    return {parseJson(text, "reference"),
            fmt::format("{}: {} of {} states, PCR {}\n", options.output,
                        printable(options.name), reference.states.size(),
                        PcrSelection::of(pcrs).text())};
}

} // namespace airlock::tpmtool
