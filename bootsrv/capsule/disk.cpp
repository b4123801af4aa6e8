#include "bootsrv/capsule/disk.hpp"

#include "bootsrv/machine/boot_choice.hpp"
#include "bootsrv/machine/init.hpp"
#include "common/file.hpp"
#include "common/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace airlock::capsule
{

namespace
{

constexpr std::uint64_t sector = 512;
/** Seal and kept, and what tables take at both ends. */
constexpr std::uint64_t smallParts = mebibyte;
constexpr std::uint64_t minStaging = 16 * mebibyte;
constexpr auto toolTime = std::chrono::minutes(5);

constexpr const char* espType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
constexpr const char* dataType = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

/** Some are in /sbin, which is not in every user's path. */
void runDiskTool(std::vector<std::string> argv, int stdinFd = -1)
{
    SpawnOptions options;
    options.argv = std::move(argv);
    options.stdinFd = stdinFd;
    options.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
                   "MTOOLS_SKIP_CHECK=1"};
    runTool(options, toolTime);
}

void addPart(std::string& table, std::uint64_t start, std::uint64_t size,
             const char* type, const char* label, const char* guid)
{
    if (start == 0)
    {
        return;
    }
    table += fmt::format("start={}, size={}, type={}, name={}", start / sector,
                         size / sector, type, label);
    table += guid != nullptr ? fmt::format(", uuid={}\n", guid) : "\n";
}

std::string inside(const std::filesystem::path& disk, const DiskLayout& layout)
{
    return fmt::format("{}@@{}", disk.string(), layout.esp);
}

void makeSparse(const std::filesystem::path& file, std::uint64_t size)
{
    UniqueFd fd = openFile(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    {
        throwErrno("cannot make " + file.string());
    }
}

/** What staging has from there on; the last MiB has the second table. */
std::uint64_t roomAfter(std::uint64_t staging, std::uint64_t diskSize)
{
    const std::uint64_t end = diskSize / mebibyte * mebibyte;
    if (end < staging + minStaging + mebibyte)
    {
        throw Refused("disk", fmt::format("has {} MiB, which is too small",
                                          diskSize / mebibyte));
    }
    return end - staging - mebibyte;
}

} // namespace

void syncFile(const std::filesystem::path& file)
{
    const UniqueFd fd = openFile(file, O_RDONLY);
    if (::fsync(fd.get()) != 0)
    {
        throwErrno("cannot write " + file.string());
    }
}

DiskLayout layoutOf(std::uint64_t diskSize)
{
    DiskLayout out;
    out.esp = mebibyte;
    out.espSize = espBytes;
    out.seal = out.esp + out.espSize;
    out.kept = out.seal + smallParts;
    out.staging = out.kept + smallParts;
    out.stagingSize = roomAfter(out.staging, diskSize);
    return out;
}

DiskLayout dataLayout()
{
    DiskLayout out;
    out.seal = mebibyte;
    out.kept = out.seal + smallParts;
    return out;
}

DiskLayout stagingLayout(std::uint64_t diskSize)
{
    DiskLayout out;
    out.staging = mebibyte;
    out.stagingSize = roomAfter(out.staging, diskSize);
    return out;
}

void writeTable(const std::filesystem::path& disk, const DiskLayout& layout)
{
    std::string table = "label: gpt\nunit: sectors\n";
    addPart(table, layout.esp, layout.espSize, espType, "airlock-esp",
            machine::espGuid);
    addPart(table, layout.seal, smallParts, dataType, machine::sealLabel,
            nullptr);
    addPart(table, layout.kept, smallParts, dataType, machine::keptLabel,
            nullptr);
    addPart(table, layout.staging, layout.stagingSize, dataType,
            machine::stagingLabel, nullptr);
    UniqueFd script = createMemfd("table", 0);
    writeAllAt(script.get(), asBytes(table), 0);
    runDiskTool(
        {"sfdisk", "--quiet", "--wipe", "always", "--no-reread", disk.string()},
        script.get());
    // What an earlier system left there is no record of ours.
    UniqueFd fd = openFile(disk, O_WRONLY);
    for (std::uint64_t part : {layout.seal, layout.kept, layout.staging})
    {
        if (part != 0)
        {
            writeAllAt(fd.get(), Bytes(smallParts), part);
        }
    }
    syncFile(disk);
}

void writeImages(const std::filesystem::path& disk, const DiskLayout& layout,
                 const BootImages& images)
{
    // Cluster size by hand: it would go by the size of the whole disk.
    runDiskTool({"mkfs.vfat", "-F", "32", "-S", "512", "-s", "1", "-n",
                 "AIRLOCK", "-i", "a17c0001", "--offset",
                 std::to_string(layout.esp / sector), disk.string(),
                 std::to_string(layout.espSize / 1024)});
    const std::string at = inside(disk, layout);
    runDiskTool({"mmd", "-i", at, "::/EFI", "::/EFI/BOOT", "::/EFI/airlock"});
    runDiskTool(
        {"mcopy", "-i", at, images.clean.string(), "::/EFI/BOOT/BOOTX64.EFI"});
    runDiskTool(
        {"mcopy", "-i", at, images.dirty.string(), "::/EFI/airlock/dirty.efi"});
    syncFile(disk);
}

void makeImageDisk(const std::filesystem::path& file, const BootImages& images)
{
    const DiskLayout layout{mebibyte, espBytes, 0, 0, 0, 0};
    makeSparse(file, espBytes + 2 * mebibyte);
    writeTable(file, layout);
    writeImages(file, layout, images);
}

void makeDataDisk(const std::filesystem::path& file)
{
    const DiskLayout layout = dataLayout();
    makeSparse(file, layout.kept + smallParts + mebibyte);
    writeTable(file, layout);
}

void makeStagingDisk(const std::filesystem::path& file,
                     std::uint64_t stagingSize)
{
    const std::uint64_t size = std::max(stagingSize, minStaging) + 2 * mebibyte;
    makeSparse(file, size);
    writeTable(file, stagingLayout(size));
}

} // namespace airlock::capsule
