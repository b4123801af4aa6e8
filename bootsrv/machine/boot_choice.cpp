#include "bootsrv/machine/boot_choice.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace airlock::machine
{

namespace
{

constexpr std::uint32_t optionActive = 1;

// Device path nodes of the UEFI specification, 10.3.
constexpr std::uint8_t mediaPath = 4;
constexpr std::uint8_t hardDrive = 1;
constexpr std::uint8_t filePath = 4;
constexpr std::uint8_t guidPartitionTable = 2;
constexpr std::uint8_t guidSignature = 2;

template <typename T>
void little(Bytes& to, T value)
{
    for (std::size_t i = 0; i < sizeof(T); i++)
    {
        to.push_back(static_cast<std::uint8_t>(
            static_cast<std::uint64_t>(value) >> (8 * i)));
    }
}

void append(Bytes& to, ByteView data)
{
    to.insert(to.end(), data.begin(), data.end());
}

void addNode(Bytes& to, std::uint8_t type, std::uint8_t subType,
             ByteView content)
{
    to.push_back(type);
    to.push_back(subType);
    little(to, static_cast<std::uint16_t>(content.size() + 4));
    append(to, content);
}

/** The short form: firmware looks for the partition with this signature. */
Bytes devicePath(const char* file)
{
    Bytes drive;
    little(drive, std::uint32_t{espNumber});
    little(drive, std::uint64_t{0}); // start and size are not compared
    little(drive, std::uint64_t{0});
    append(drive, parseGuid(espGuid));
    drive.push_back(guidPartitionTable);
    drive.push_back(guidSignature);
    Bytes name = utf16(file);
    little(name, std::uint16_t{0});
    Bytes out;
    addNode(out, mediaPath, hardDrive, drive);
    addNode(out, mediaPath, filePath, name);
    addNode(out, 0x7f, 0xff, {});
    return out;
}

int hexDigit(char c)
{
    if (c >= '0' && c <= '9')
    {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/** efivarfs protects what it does not know from removal by mistake. */
void makeMutable(int fd)
{
    int flags = 0;
    if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
        (flags & FS_IMMUTABLE_FL) != 0)
    {
        flags &= ~FS_IMMUTABLE_FL;
        if (::ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0)
        {
            throwErrno("cannot change a firmware variable");
        }
    }
}

} // namespace

Guid parseGuid(std::string_view text)
{
    // The first three groups are little-endian.
    static constexpr std::array<std::size_t, 16> digits = {
        6, 4, 2, 0, 11, 9, 16, 14, 19, 21, 24, 26, 28, 30, 32, 34};
    Guid out{};
    bool good = text.size() == 36;
    for (std::size_t i = 0; good && i < out.size(); i++)
    {
        int high = hexDigit(text[digits.at(i)]);
        int low = hexDigit(text[digits.at(i) + 1]);
        good = high >= 0 && low >= 0;
        out.at(i) = static_cast<std::uint8_t>(high * 16 + low);
    }
    for (std::size_t at : {8U, 13U, 18U, 23U})
    {
        good = good && text[at] == '-';
    }
    if (!good)
    {
        throw Refused("GUID", "is none");
    }
    return out;
}

Bytes utf16(std::string_view text)
{
    Bytes out;
    for (char c : text)
    {
        little(out, static_cast<std::uint16_t>(c));
    }
    return out;
}

std::uint16_t bootNumber(Mode mode)
{
    return mode == Mode::clean ? 0xa100 : 0xa101;
}

std::string bootVariable(Mode mode)
{
    return mode == Mode::clean ? "BootA100" : "BootA101";
}

Bytes loadOption(Mode mode)
{
    const bool clean = mode == Mode::clean;
    const Bytes path = devicePath(clean ? cleanPath : dirtyPath);
    Bytes out;
    little(out, optionActive);
    little(out, static_cast<std::uint16_t>(path.size()));
    append(out, utf16(clean ? "Airlock clean mode" : "Airlock dirty mode"));
    little(out, std::uint16_t{0});
    append(out, path);
    return out;
}

Bytes bootList(std::span<const Mode> modes)
{
    Bytes out;
    for (Mode mode : modes)
    {
        little(out, bootNumber(mode));
    }
    return out;
}

std::filesystem::path BootChoice::fileOf(std::string_view name) const
{
    return variables_ / (std::string(name) + "-" + globalVariables);
}

void BootChoice::write(std::string_view name, ByteView data) const
{
    const std::filesystem::path file = fileOf(name);
    if (std::filesystem::exists(file))
    {
        makeMutable(openFile(file, O_RDONLY).get());
    }
    // One write, attributes first: that is how efivarfs takes it.
    Bytes content;
    little(content, bootAttributes);
    append(content, data);
    UniqueFd fd = openFile(file, O_WRONLY | O_CREAT);
    ssize_t done = ::write(fd.get(), content.data(), content.size());
    if (done != static_cast<ssize_t>(content.size()))
    {
        throwErrno("cannot write the firmware variable " + std::string(name));
    }
}

void BootChoice::remove(std::string_view name) const
{
    const std::filesystem::path file = fileOf(name);
    if (std::filesystem::exists(file))
    {
        makeMutable(openFile(file, O_RDONLY).get());
        std::filesystem::remove(file);
    }
}

void BootChoice::reset() const
{
    const std::array<Mode, 1> order = {Mode::clean};
    remove("BootNext");
    write("BootOrder", bootList(order));
    write(bootVariable(Mode::clean), loadOption(Mode::clean));
    write(bootVariable(Mode::dirty), loadOption(Mode::dirty));
}

void BootChoice::next(Mode mode) const
{
    const std::array<Mode, 1> choice = {mode};
    write("BootNext", bootList(choice));
}

} // namespace airlock::machine
