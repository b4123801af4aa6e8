#include "state_source.hpp"

#include "common/file.hpp"
#include "common/process.hpp"
#include "common/sha256.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <regex>
#include <sstream>

namespace airlock::test
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t maxFile = 4U << 20;
constexpr std::size_t digestLength = 16; ///< changes are found, not attacks

bool isWord(char c)
{
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/** The end of the literal that starts at `at`, quote included. */
std::size_t endOfLiteral(std::string_view text, std::size_t at)
{
    const char quote = text[at++];
    while (at < text.size() && text[at] != quote && text[at] != '\n')
    {
        at += text[at] == '\\' ? 2U : 1U;
    }
    return std::min(at + 1, text.size());
}

/** Comments become spaces; lines stay lines. */
std::string withoutComments(std::string_view text)
{
    std::string out;
    for (std::size_t at = 0; at < text.size();)
    {
        const std::string_view rest = text.substr(at);
        if (rest.starts_with("/*"))
        {
            const std::size_t length =
                std::min(rest.find("*/", 2), rest.size());
            const std::string_view comment = rest.substr(0, length);
            out += ' ';
            out.append(
                static_cast<std::size_t>(std::ranges::count(comment, '\n')),
                '\n');
            at = std::min(at + length + 2, text.size());
        }
        else if (rest.starts_with("//"))
        {
            at += std::min(rest.find('\n'), rest.size());
        }
        else if (rest[0] == '"' || rest[0] == '\'')
        {
            const std::size_t end = endOfLiteral(text, at);
            out += text.substr(at, end - at);
            at = end;
        }
        else
        {
            out += text[at++];
        }
    }
    return out;
}

std::string oneSpaceBetweenWords(const std::string& text)
{
    std::istringstream in(text);
    std::string out;
    for (std::string word; in >> word;)
    {
        out += out.empty() ? word : " " + word;
    }
    return out;
}

/** "vmstate_x" of "static const VMStateDescription vmstate_x = {", "f" of
 * "static int f(int x)", "M" of "#define M(x)". */
std::string nameOf(std::string_view text)
{
    constexpr std::string_view define = "#define ";
    if (text.starts_with(define))
    {
        text.remove_prefix(define.size());
        return std::string(text.substr(
            0, static_cast<std::size_t>(std::ranges::find_if_not(text, isWord) -
                                        text.begin())));
    }
    text = text.substr(0, text.find_first_of("=({[;"));
    while (!text.empty() && !isWord(text.back()))
    {
        text.remove_suffix(1);
    }
    std::size_t start = text.size();
    while (start > 0 && isWord(text[start - 1]))
    {
        --start;
    }
    return std::string(text.substr(start));
}

/** Puts lines together to definitions. */
class Cutter
{
  public:
    void add(const std::string& line)
    {
        const bool blank = line.find_first_not_of(" \t") == std::string::npos;
        const bool fresh =
            !blank && !std::isspace(static_cast<unsigned char>(line[0]));
        // A macro's call, without a semicolon, has nothing behind it.
        if (depth_ == 0 && fresh && line[0] != '{' && endsWith(')'))
        {
            finish();
        }
        if (blank || (text_.empty() && isOtherDirective(line)))
        {
            return;
        }
        directive_ = text_.empty() ? line[0] == '#' : directive_;
        text_ += line + "\n";
        count(line);
        if (directive_ ? line.back() != '\\'
                       : line[0] == '}' ||
                             (depth_ == 0 && (endsWith(';') || endsWith('}'))))
        {
            finish();
        }
    }

    Definitions take()
    {
        finish();
        return std::move(out_);
    }

  private:
    static bool isOtherDirective(const std::string& line)
    {
        return line[0] == '#' &&
               !oneSpaceBetweenWords(line).starts_with("#define ");
    }

    bool endsWith(char c) const
    {
        const std::size_t last = text_.find_last_not_of(" \t\n");
        return last != std::string::npos && text_[last] == c;
    }

    void count(const std::string& line)
    {
        for (std::size_t at = 0; at < line.size(); ++at)
        {
            const char c = line[at];
            if (c == '"' || c == '\'')
            {
                at = endOfLiteral(line, at) - 1;
            }
            depth_ += c == '{' || c == '(' ? 1 : 0;
            depth_ -= c == '}' || c == ')' ? 1 : 0;
        }
    }

    void finish()
    {
        const std::string text = oneSpaceBetweenWords(text_);
        if (!text.empty())
        {
            std::string& all = out_[nameOf(text)];
            all += all.empty() ? text : " " + text;
        }
        text_.clear();
        depth_ = 0;
        directive_ = false;
    }

    Definitions out_;
    std::string text_;
    int depth_ = 0;          ///< of braces and parentheses
    bool directive_ = false; ///< text_ is a #define
};

bool isDescription(const std::string& text)
{
    static const std::regex pattern("\\b(VMStateDescription|VMStateInfo|"
                                    "VMStateField|VMSTATE_[A-Z0-9_]+)\\b");
    return std::regex_search(text, pattern);
}

bool usesStream(const std::string& text)
{
    static const std::regex pattern(
        "\\b(QEMUFile|"
        "qemu_(put|get|peek)_(s?be(16|32|64)s?|byte|buffer|counted_string)|"
        "vmstate_(save|load|register|subsection)\\w*)\\b");
    return std::regex_search(text, pattern);
}

std::set<std::string> words(std::string_view text)
{
    std::set<std::string> out;
    for (std::size_t at = 0; at < text.size();)
    {
        std::size_t end = at;
        while (end < text.size() && isWord(text[end]))
        {
            ++end;
        }
        if (end > at)
        {
            out.emplace(text.substr(at, end - at));
        }
        at = end + 1;
    }
    return out;
}

std::string readText(const fs::path& path)
{
    return readTextFile(path, maxFile);
}

std::string digestOf(const std::string& text)
{
    const std::string digest = toHex(sha256(asBytes(text)));
    return digest.substr(0, digestLength);
}

/** Streams that the production machine's save command does not write: guest
 * memory, disks, migration's own. Its framing and the encoding of numbers are
 * no device's either; a change there leaves no stream that can be read. */
bool isNoDevice(const std::string& path)
{
    static const std::regex pattern("migration/(?!vmstate).*|(block|"
                                    "replay|util|audio|ui|stubs)/.*");
    return std::regex_match(path, pattern);
}

/** The C files that are linked into the QEMU of a build, by their path in the
 * source. */
std::vector<std::string> linkedSources(const fs::path& build,
                                       const fs::path& source)
{
    SpawnOptions options;
    options.argv = {"ninja", "-C",     build.string(),
                    "-t",    "inputs", "qemu-system-x86_64"};
    const ProcessOutput output = runProgram(options);
    if (!output.status.ok())
    {
        throw Error("ninja does not know what " + build.string() +
                    " is built from: " + output.err);
    }
    std::vector<std::string> out;
    std::istringstream lines(output.out);
    for (std::string line; std::getline(lines, line);)
    {
        const fs::path path = fs::weakly_canonical(build / line);
        const std::string inside = path.lexically_relative(source).string();
        if (path.extension() == ".c" && !inside.starts_with("..") &&
            !isNoDevice(inside))
        {
            out.push_back(inside);
        }
    }
    return out;
}

/** Headers of the source that a file includes, by their path in it. */
std::vector<std::string> includedBy(const std::string& text,
                                    const std::string& path,
                                    const fs::path& source)
{
    static const std::regex pattern("#include \"([^\"]+)\"");
    std::vector<std::string> out;
    for (std::sregex_iterator match(text.begin(), text.end(), pattern), end;
         match != end; ++match)
    {
        const std::string name = (*match)[1];
        for (const fs::path& from :
             {fs::path(path).parent_path(), fs::path("include"), fs::path()})
        {
            const fs::path header = (from / name).lexically_normal();
            if (fs::exists(source / header))
            {
                out.push_back(header.string());
                break;
            }
        }
    }
    return out;
}

/** The field macros of a header; what else is in it shows where it is used. */
Definitions macrosOf(const std::string& text)
{
    Definitions out = definitions(text);
    std::erase_if(out, [](const auto& entry) {
        return !entry.first.starts_with("VMSTATE_") &&
               !entry.first.starts_with("VMState") &&
               !entry.first.starts_with("VMS_");
    });
    return out;
}

std::string joined(const Definitions& some)
{
    std::string out;
    for (const auto& [name, text] : some)
    {
        out += text + "\n";
    }
    return out;
}

/** CONFIG_X -> value, of a build. */
std::map<std::string, std::string> switchesOf(const fs::path& build)
{
    static const std::regex pattern("#define (CONFIG_\\w+) ?(.*)");
    std::map<std::string, std::string> out;
    for (const char* name : {"config-host.h", "x86_64-softmmu-config-devices.h",
                             "x86_64-softmmu-config-target.h"})
    {
        std::istringstream lines(readText(build / name));
        std::smatch match;
        for (std::string line; std::getline(lines, line);)
        {
            if (std::regex_match(line, match, pattern))
            {
                const std::string value = match[2];
                out[match[1]] = value.empty() ? "set" : value;
            }
        }
    }
    return out;
}

/** Collects the definitions of one build. */
class Collector
{
  public:
    Collector(const fs::path& build, const fs::path& source)
        : source_(source), switches_(switchesOf(build))
    {}

    void add(const std::string& path)
    {
        const std::string text = readText(source_ / path);
        const Definitions found = stateDefinitions(text);
        for (const auto& [name, definition] : found)
        {
            out_[path + ": " + name] = digestOf(definition);
            addSwitches(definition);
        }
        for (const std::string& header : found.empty()
                                             ? std::vector<std::string>()
                                             : includedBy(text, path, source_))
        {
            addHeader(header);
        }
    }

    StateSources take() { return std::move(out_); }

  private:
    void addHeader(const std::string& path)
    {
        if (!headers_.insert(path).second)
        {
            return;
        }
        const Definitions macros = macrosOf(readText(source_ / path));
        if (!macros.empty())
        {
            out_[path + ": macros"] = digestOf(joined(macros));
        }
    }

    void addSwitches(const std::string& definition)
    {
        for (const std::string& word : words(definition))
        {
            if (word.starts_with("CONFIG_"))
            {
                const auto found = switches_.find(word);
                out_["switch " + word] =
                    found == switches_.end() ? "unset" : found->second;
            }
        }
    }

    fs::path source_;
    std::map<std::string, std::string> switches_;
    std::set<std::string> headers_;
    StateSources out_;
};

} // namespace

Definitions definitions(std::string_view source)
{
    Cutter cutter;
    std::istringstream lines(withoutComments(source));
    for (std::string line; std::getline(lines, line);)
    {
        cutter.add(line);
    }
    return cutter.take();
}

Definitions stateDefinitions(std::string_view source)
{
    const Definitions all = definitions(source);
    Definitions out;
    std::set<std::string> named;
    for (const auto& [name, text] : all)
    {
        if (isDescription(text))
        {
            named.merge(words(text));
            out[name] = text;
        }
        else if (usesStream(text))
        {
            out[name] = text;
        }
    }
    // A file that only declares something about state describes none.
    if (out.empty())
    {
        return out;
    }
    for (const std::string& name : named)
    {
        if (const auto found = all.find(name); found != all.end())
        {
            out.insert(*found);
        }
    }
    return out;
}

StateSources stateSourcesOf(const fs::path& build, const fs::path& source)
{
    const fs::path root = fs::canonical(source);
    Collector collector(build, root);
    for (const std::string& path : linkedSources(build, root))
    {
        collector.add(path);
    }
    return collector.take();
}

std::string formatStateSources(const StateSources& sources)
{
    std::string out;
    for (const auto& [name, digest] : sources)
    {
        out += digest + " " + name + "\n";
    }
    return out;
}

StateSources parseStateSources(std::string_view text)
{
    StateSources out;
    std::istringstream lines{std::string(text)};
    for (std::string line; std::getline(lines, line);)
    {
        if (line.empty() || line[0] == '#')
        {
            continue;
        }
        const std::size_t space = line.find(' ');
        if (space == 0 || space == std::string::npos ||
            space + 1 == line.size())
        {
            throw Error("no line of a digest and a name: " + line);
        }
        out[line.substr(space + 1)] = line.substr(0, space);
    }
    return out;
}

std::vector<std::string> difference(const StateSources& reviewed,
                                    const StateSources& built)
{
    std::vector<std::string> out;
    for (const auto& [name, digest] : built)
    {
        const auto found = reviewed.find(name);
        if (found == reviewed.end())
        {
            out.push_back("new      " + name);
        }
        else if (found->second != digest)
        {
            out.push_back("changed  " + name);
        }
    }
    for (const auto& [name, digest] : reviewed)
    {
        if (!built.contains(name))
        {
            out.push_back("gone     " + name);
        }
    }
    return out;
}

} // namespace airlock::test
