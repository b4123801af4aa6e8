#pragma once

#include "common/fd.hpp"
#include "common/file.hpp"
#include "common/qmp.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

struct nbd_handle;

/** Reading a guest's disks while it is stopped, whatever their format. */
namespace airlock::host
{

/** A disk of a running QEMU. */
struct QemuDisk
{
    std::string device; ///< QOM path of the guest's device
    std::string node;   ///< block node at its root
    std::uint64_t bytes = 0;
    bool readOnly = false;
};

/** The disks that have a device with one of these ids ("virtio-disk0"), in
 * that order. Throws Error naming the first that is missing. */
std::vector<QemuDisk> findDisks(QmpCommands& qmp,
                                const std::vector<std::string>& deviceIds);

/** Reads an NBD export: what base:allocation calls zero is not read. */
class NbdImage : public handover::ImageSource
{
  public:
    NbdImage(const std::filesystem::path& socket, const std::string& name,
             std::uint64_t bytes);
    NbdImage(const NbdImage&) = delete;
    NbdImage& operator=(const NbdImage&) = delete;
    ~NbdImage() override;

    std::uint64_t bytes() const override { return bytes_; }
    std::uint64_t nextData(std::uint64_t begin) override;
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override;

  private:
    struct Range
    {
        std::uint64_t begin = 0;
        std::uint64_t end = 0;
    };
    struct Close
    {
        void operator()(nbd_handle* handle) const;
    };

    void findData();

    std::unique_ptr<nbd_handle, Close> nbd_;
    std::uint64_t bytes_;
    std::vector<Range> data_;
};

/** QEMU's NBD server with a read-only export for each disk, on a socket that
 * only this user can reach. Ends with the object; one that a former process
 * left behind is ended first. */
class DiskExport
{
  public:
    DiskExport(QmpCommands& qmp, const std::vector<QemuDisk>& disks);
    DiskExport(const DiskExport&) = delete;
    DiskExport& operator=(const DiskExport&) = delete;
    ~DiskExport();

    /** The content of disk number `index`. */
    std::unique_ptr<NbdImage> open(std::size_t index) const;

  private:
    void stop() noexcept;

    QmpCommands& qmp_;
    std::vector<QemuDisk> disks_;
    TempDirectory directory_;
};

} // namespace airlock::host
