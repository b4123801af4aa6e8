#include "bootsrv/qemu_facts.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "common/sha256.hpp"

#include <elf.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <sstream>

namespace airlock::boot
{

namespace
{

constexpr Milliseconds answerTime = std::chrono::seconds(20);
constexpr std::size_t maxWords = 2000;
constexpr std::size_t maxWord = 128;
constexpr std::size_t maxHeaders = 64;
constexpr std::size_t maxNotes = 64U << 10;

std::string say(const std::filesystem::path& binary,
                std::vector<std::string> arguments)
{
    SpawnOptions options;
    options.argv = {binary.string()};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    ProcessOutput output = runProgram(options, answerTime);
    if (!output.status.ok())
    {
        throw Error(binary.string() + " " + arguments.back() + ": " +
                    output.status.describe() + " " +
                    plainText(output.err, 200));
    }
    return output.out;
}

/** The first word of each line of a list; titles end with a colon. */
std::set<std::string> words(const std::string& text)
{
    std::set<std::string> out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
    {
        std::istringstream parts(line);
        std::string word;
        parts >> word;
        if (!word.empty() && line.back() != ':')
        {
            out.insert(word);
        }
    }
    return out;
}

/** "10.0.2" of "QEMU emulator version 10.0.2 (Debian …)" */
std::string versionIn(const std::filesystem::path& binary,
                      const std::string& text)
{
    constexpr std::string_view before = "QEMU emulator version ";
    if (!text.starts_with(before))
    {
        throw Error(binary.string() + " is no QEMU");
    }
    std::string rest = text.substr(before.size());
    return plainText(rest.substr(0, rest.find_first_of(" \n(")), maxWord);
}

std::set<std::string> parseWords(const JsonField& field)
{
    std::set<std::string> out;
    for (std::size_t i = 0; i < field.arraySize(maxWords); i++)
    {
        out.insert(plainText(field.element(i).string(maxWord)));
    }
    return out;
}

/** A structure at some place of a file. */
template <typename T>
T readAt(int fd, std::uint64_t offset)
{
    T out = {};
    readExactAt(fd, {reinterpret_cast<std::uint8_t*>(&out), sizeof(out)}, // POD
                offset);
    return out;
}

/** The description of the build id among the notes of a segment. */
std::string buildIdAmong(ByteView notes)
{
    auto padded = [](std::size_t size) { return (size + 3) & ~std::size_t{3}; };
    while (notes.size() >= sizeof(Elf64_Nhdr))
    {
        Elf64_Nhdr note = {};
        std::memcpy(&note, notes.data(), sizeof(note));
        notes = notes.subspan(sizeof(note));
        std::size_t name = padded(note.n_namesz);
        std::size_t size = padded(note.n_descsz);
        if (name > notes.size() || size > notes.size() - name)
        {
            return {};
        }
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
            std::memcmp(notes.data(), "GNU", 4) == 0)
        {
            return toHex(notes.subspan(name, note.n_descsz));
        }
        notes = notes.subspan(name + size);
    }
    return {};
}

} // namespace

Json QemuFacts::toJson() const
{
    return {{"version", version},
            {"build", build},
            {"machines", machines},
            {"cpu-models", cpuModels},
            {"accelerators", accelerators}};
}

QemuFacts QemuFacts::parse(const JsonField& field)
{
    QemuFacts out;
    out.version = plainText(field.at("version").string(maxWord));
    out.build = plainText(field.at("build").string(maxWord));
    out.machines = parseWords(field.at("machines"));
    out.cpuModels = parseWords(field.at("cpu-models"));
    out.accelerators = parseWords(field.at("accelerators"));
    return out;
}

QemuFacts askQemu(const std::filesystem::path& binary)
{
    QemuFacts out;
    out.version = versionIn(binary, say(binary, {"--version"}));
    out.build = buildIdOf(binary);
    out.machines = words(say(binary, {"-machine", "help"}));
    out.cpuModels = words(say(binary, {"-machine", "none", "-cpu", "help"}));
    out.accelerators = words(say(binary, {"-accel", "help"}));
    if (::access("/dev/kvm", R_OK | W_OK) != 0)
    {
        out.accelerators.erase("kvm");
    }
    return out;
}

std::string buildIdOf(const std::filesystem::path& program)
{
    UniqueFd fd = openFile(program, O_RDONLY);
    if (fileSize(fd.get()) < sizeof(Elf64_Ehdr))
    {
        return {};
    }
    auto head = readAt<Elf64_Ehdr>(fd.get(), 0);
    if (std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
        head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_phnum > maxHeaders ||
        head.e_phentsize != sizeof(Elf64_Phdr))
    {
        return {};
    }
    for (std::size_t i = 0; i < head.e_phnum; i++)
    {
        auto segment =
            readAt<Elf64_Phdr>(fd.get(), head.e_phoff + i * sizeof(Elf64_Phdr));
        if (segment.p_type != PT_NOTE || segment.p_filesz > maxNotes)
        {
            continue;
        }
        Bytes notes(segment.p_filesz);
        readExactAt(fd.get(), notes, segment.p_offset);
        if (std::string id = buildIdAmong(notes); !id.empty())
        {
            return id;
        }
    }
    return {};
}

} // namespace airlock::boot
