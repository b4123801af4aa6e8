/** A domain with a disk of each kind: what the guest writes and discards while
 * it boots arrives on each, what is read-only stays as it was. */
#include "common/error.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace airlock::test
{

using namespace rig;

namespace
{

namespace fs = std::filesystem;

constexpr Milliseconds bootTime = std::chrono::minutes(4);
constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t dataBytes = 64 * mib;
/** Whole sectors, but not whole pages, as many disks are; and a seed as
 * genisoimage makes them. */
constexpr std::uint64_t oddBytes = dataBytes + 3 * 512;
constexpr std::uint64_t seedBytes = 187 * 2048;
/** Written in the first life, discarded while the guest boots again. */
constexpr std::uint64_t discardStart = 16 * mib;
constexpr std::uint64_t discardBytes = 4 * mib;
constexpr const char* seedText = "#cloud-config\nhostname: kept\n";

void makeFile(const fs::path& file, std::uint64_t bytes, std::string_view text)
{
    writeFileAtomic(file, text);
    fs::resize_file(file, bytes);
}

std::string textAt(const fs::path& file, std::uint64_t offset, std::size_t size)
{
    UniqueFd fd = openFile(file, O_RDONLY);
    Bytes out(size);
    readExactAt(fd.get(), out, offset);
    return {out.begin(), out.end()};
}

bool isHole(const fs::path& file, std::uint64_t offset, std::uint64_t bytes)
{
    UniqueFd fd = openFile(file, O_RDONLY);
    off_t data = ::lseek(fd.get(), static_cast<off_t>(offset), SEEK_DATA);
    return data < 0 || static_cast<std::uint64_t>(data) >= offset + bytes;
}

/** A server of the one image, as a storage network would be. */
class NbdServer
{
  public:
    explicit NbdServer(const fs::path& directory)
        : image_(directory / "served.raw"), socket_(directory / "nbd.socket")
    {
        makeFile(image_, dataBytes, "");
        SpawnOptions options;
        options.argv = {"qemu-nbd",
                        "--socket=" + socket_.string(),
                        "--export-name=volume",
                        "--format=raw",
                        "--discard=unmap",
                        "--persistent",
                        image_.string()};
        process_.emplace(options);
        Deadline deadline(std::chrono::seconds(20));
        while (!fs::exists(socket_))
        {
            if (deadline.passed() || !process_->running())
            {
                throw Error("qemu-nbd does not start");
            }
            ::usleep(50000);
        }
    }

    const fs::path& image() const { return image_; }
    const fs::path& socket() const { return socket_; }

  private:
    fs::path image_;
    fs::path socket_;
    std::optional<Process> process_;
};

std::string disk(unsigned number, const std::string& type,
                 const std::string& format, const std::string& source,
                 const std::string& more = "")
{
    return fmt::format(R"(
    <disk type='{}' device='disk'>
      <driver name='qemu' type='{}' discard='unmap'/>
      {}
      <target dev='vd{}' bus='virtio'/>{}
      <address type='pci' domain='0' bus='0' slot='{:#x}' function='0'/>
    </disk>)",
                       type, format, source, static_cast<char>('a' + number),
                       more, 8 + number);
}

std::string fileSource(const fs::path& file)
{
    return fmt::format("<source file='{}'/>", file.string());
}

class Disks : public testing::Test
{
  protected:
    Disks()
        : files_("airlock-disks"), server_(files_.path()),
          base_(files_.path() / "base.raw"),
          system_(files_.path() / "system.qcow2"),
          data_(files_.path() / "data.raw"), seed_(files_.path() / "seed.raw")
    {
        runTool({"cp", "--sparse=always",
                 (vm::defaultBuildDirectory() / "images/debian12-tiny.raw")
                     .string(),
                 base_.string()});
        runTool({"qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b",
                 base_.string(), system_.string()});
        makeFile(data_, oddBytes, "");
        makeFile(seed_, seedBytes, seedText);
        DomainCase domain;
        domain.guest = {"tiny", 1, 160 * mib, true};
        domain.disks = [this](const fs::path&) { return xml(); };
        rig_.emplace(std::vector{domain});
    }

    std::string xml() const
    {
        return disk(0, "file", "qcow2", fileSource(system_)) +
               disk(1, "file", "raw", fileSource(data_)) +
               disk(2, "file", "raw", fileSource(seed_), "<readonly/>") +
               disk(3, "network", "raw",
                    fmt::format("<source protocol='nbd' name='volume'>"
                                "<host transport='unix' socket='{}'/></source>",
                                server_.socket().string()));
    }

    std::string run(const std::string& command) { return rig_->run(command); }

    /** What the guest does to its disks while it boots. */
    void installBootWork()
    {
        run("cat >/root/at-boot <<'END'\n"
            "#!/bin/sh\n"
            "for disk in vdb vdd; do\n"
            "dd if=/proc/sys/kernel/random/boot_id of=/dev/$disk bs=4096 "
            "seek=1 conv=notrunc,fsync\n"
            "blkdiscard -o 16777216 -l 4194304 /dev/$disk\n"
            "done\n"
            "dd if=/proc/sys/kernel/random/boot_id of=/dev/vdb bs=512 " +
            fmt::format("seek={} conv=notrunc,fsync\n", oddBytes / 512 - 1) +
            "if dd if=/dev/zero of=/dev/vdc bs=4096 count=1\n"
            "then echo written; else echo refused; fi\n"
            "END\n"
            "chmod 755 /root/at-boot && sync");
    }

    std::string sizes()
    {
        return run("cat /sys/block/vd[abcd]/size /sys/block/vd[abcd]/ro");
    }

    TempDirectory files_;
    NbdServer server_;
    fs::path base_;
    fs::path system_;
    fs::path data_;
    fs::path seed_;
    std::optional<HostRig> rig_;
};

TEST_F(Disks, WritesOfABootArriveOnEachKind)
{
    std::string base = digestOf(base_);
    std::string seed = digestOf(seed_);
    rig_->guest().start();
    rig_->waitAlive(bootTime);
    std::string sizes = this->sizes();
    EXPECT_EQ(sizes,
              fmt::format("196608\n{}\n{}\n{}\n0\n0\n1\n0\n", oddBytes / 512,
                          seedBytes / 512, dataBytes / 512));
    for (const char* name : {"vdb", "vdd"})
    {
        run(fmt::format("dd if=/dev/urandom of=/dev/{0} bs=1M seek=15 count=6 "
                        "conv=notrunc,fsync 2>/dev/null && dd if=/dev/{0} "
                        "bs=1M skip=15 count=1 2>/dev/null | sha256sum "
                        ">/root/{0}.sum",
                        name));
    }
    EXPECT_FALSE(isHole(data_, discardStart, discardBytes));
    EXPECT_FALSE(isHole(server_.image(), discardStart, discardBytes));
    installBootWork();

    rig_->send("reboot");
    rig_->waitPaused(bootTime);
    rig_->waitAlive(bootTime);
    std::string boot = rig_->guest().bootId();
    EXPECT_EQ(this->sizes(), sizes);
    EXPECT_EQ(run("tail -n 1 /root/boots"), boot);
    EXPECT_EQ(run("tail -n 1 /root/at-boot.log"), "refused\n");
    EXPECT_EQ(run(fmt::format("head -c {} /dev/vdc",
                              std::string_view(seedText).size())),
              seedText);
    for (const char* name : {"vdb", "vdd"})
    {
        SCOPED_TRACE(name);
        EXPECT_EQ(run(fmt::format("dd if=/dev/{} bs=4096 skip=1 count=1 "
                                  "2>/dev/null | head -c 37",
                                  name)),
                  boot);
        EXPECT_EQ(run(fmt::format("dd if=/dev/{0} bs=1M skip=15 count=1 "
                                  "2>/dev/null | sha256sum | cmp - "
                                  "/root/{0}.sum && echo same",
                                  name)),
                  "same\n");
        EXPECT_EQ(run(fmt::format("dd if=/dev/{} bs=1M skip=16 count=4 "
                                  "2>/dev/null | tr -d '\\0' | wc -c",
                                  name)),
                  "0\n");
    }
    rig_->send("poweroff");
    rig_->guest().waitOff(std::chrono::minutes(1));

    for (const fs::path& image : {data_, server_.image()})
    {
        SCOPED_TRACE(image.filename());
        EXPECT_EQ(textAt(image, 4096, boot.size()), boot);
        EXPECT_TRUE(isHole(image, discardStart, discardBytes));
        EXPECT_FALSE(isHole(image, discardStart + discardBytes, mib));
    }
    EXPECT_EQ(fs::file_size(data_), oddBytes);
    EXPECT_EQ(fs::file_size(server_.image()), dataBytes);
    EXPECT_EQ(textAt(data_, oddBytes - 512, boot.size()), boot);
    EXPECT_EQ(digestOf(seed_), seed);
    EXPECT_EQ(digestOf(base_), base) << "the backing file was written";
    runTool({"qemu-img", "check", "-q", "-f", "qcow2", system_.string()});
}

} // namespace
} // namespace airlock::test
