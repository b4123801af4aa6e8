#include "bootsrv/machine/scratch.hpp"

#include "common/file.hpp"
#include "common/process.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace airlock::machine
{

namespace
{

constexpr const char* control = "/dev/mapper/control";
constexpr const char* mapName = "airlock-scratch";
constexpr const char* mountPoint = "/run/airlock/scratch";
constexpr auto formatTime = std::chrono::minutes(10);

/** One command to the device mapper: a header, and a table behind it. */
class MapCommand
{
  public:
    explicit MapCommand(std::size_t extra = 0)
        : buffer_(sizeof(dm_ioctl) + extra)
    {
        dm_ioctl& it = header();
        it.version[0] = DM_VERSION_MAJOR;
        it.data_size = static_cast<std::uint32_t>(buffer_.size());
        it.data_start = sizeof(dm_ioctl);
        std::strncpy(it.name, mapName, sizeof it.name - 1);
    }
    MapCommand(const MapCommand&) = delete;
    MapCommand& operator=(const MapCommand&) = delete;
    ~MapCommand() { wipe(buffer_); }

    dm_ioctl& header() { return *reinterpret_cast<dm_ioctl*>(buffer_.data()); }
    std::uint8_t* table() { return buffer_.data() + sizeof(dm_ioctl); }

    void run(int fd, unsigned long command, const char* doing)
    {
        if (::ioctl(fd, command, buffer_.data()) != 0)
        {
            throwErrno(std::string("device mapper: cannot ") + doing);
        }
    }

  private:
    std::vector<std::uint8_t> buffer_;
};

/** One target over the whole area. */
void loadTable(int fd, const ScratchArea& area)
{
    std::string parameters =
        fmt::format("aes-xts-plain64 {} 0 {} {}", toHex(area.key.view()),
                    area.device.string(), area.firstSector);
    const std::size_t size = sizeof(dm_target_spec) + parameters.size() + 1;
    MapCommand command((size + 7) & ~std::size_t{7});
    command.header().target_count = 1;
    // The kernel wants the key in its memory only.
    command.header().flags = DM_SECURE_DATA_FLAG;
    dm_target_spec spec{};
    spec.length = area.sectors;
    std::strncpy(spec.target_type, "crypt", sizeof spec.target_type - 1);
    std::memcpy(command.table(), &spec, sizeof spec);
    std::copy(parameters.begin(), parameters.end(),
              command.table() + sizeof spec);
    wipe(parameters);
    command.run(fd, DM_TABLE_LOAD, "load the table of the scratch area");
}

std::filesystem::path mapArea(const ScratchArea& area)
{
    UniqueFd fd = openFile(control, O_RDWR);
    MapCommand create;
    create.run(fd.get(), DM_DEV_CREATE, "make the scratch device");
    loadTable(fd.get(), area);
    MapCommand resume;
    resume.run(fd.get(), DM_DEV_SUSPEND, "start the scratch device");
    return fmt::format("/dev/dm-{}", minor(create.header().dev));
}

} // namespace

std::filesystem::path mountScratch(const ScratchArea& area)
{
    const std::filesystem::path device = mapArea(area);
    SpawnOptions options;
    options.argv = {"/usr/sbin/mkfs.ext4",
                    "-q",
                    "-F",
                    "-m",
                    "0",
                    "-O",
                    "^has_journal",
                    "-E",
                    "lazy_itable_init=1,nodiscard",
                    device};
    options.env = std::vector<std::string>{"PATH=/usr/sbin:/usr/bin"};
    runTool(options, formatTime);
    std::filesystem::create_directories(mountPoint);
    if (::mount(device.c_str(), mountPoint, "ext4",
                MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME, nullptr) != 0)
    {
        throwErrno("cannot mount the scratch area");
    }
    return mountPoint;
}

} // namespace airlock::machine
