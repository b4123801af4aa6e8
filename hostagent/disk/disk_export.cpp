#include "hostagent/disk/disk_export.hpp"

#include "common/error.hpp"
#include "common/json.hpp"
#include "common/socket.hpp"

#include <fmt/format.h>
#include <libnbd.h>

#include <algorithm>

namespace airlock::host
{

namespace
{

/** An answer about allocation covers at most this much. */
constexpr std::uint64_t statusBytes = 1U << 30;
constexpr std::size_t extentsMax = 16U << 20;

Error nbdError(const std::string& doing)
{
    const char* text = nbd_get_error();
    return Error(doing + ": " + (text != nullptr ? text : "unknown error"));
}

std::string exportName(std::size_t index)
{
    return fmt::format("disk{}", index);
}

/** The device's path or one below it: the disk hangs on "virtio-backend". */
bool belongsTo(const std::string& path, const std::string& id)
{
    std::string device = "/machine/peripheral/" + id;
    return path == device || path == id || path.starts_with(device + "/");
}

QemuDisk readDisk(const JsonField& entry)
{
    QemuDisk disk;
    disk.device = entry.at("qdev").string();
    JsonField inserted = entry.at("inserted");
    disk.node = inserted.at("node-name").string();
    disk.readOnly = inserted.at("ro").boolean();
    disk.bytes = inserted.at("image").at("virtual-size").u64();
    return disk;
}

} // namespace

std::vector<QemuDisk> findDisks(QmpCommands& qmp,
                                const std::vector<std::string>& deviceIds)
{
    Json answer = qmp.execute("query-block");
    std::vector<QemuDisk> out;
    for (const std::string& id : deviceIds)
    {
        auto found = std::ranges::find_if(answer, [&](const Json& entry) {
            return entry.contains("qdev") && entry.contains("inserted") &&
                   belongsTo(entry.at("qdev").get<std::string>(), id);
        });
        if (found == answer.end())
        {
            throw Error("QEMU has no disk " + id);
        }
        out.push_back(readDisk(JsonField(*found, "query-block")));
    }
    return out;
}

void NbdImage::Close::operator()(nbd_handle* handle) const
{
    nbd_close(handle);
}

NbdImage::NbdImage(const std::filesystem::path& socket, const std::string& name,
                   std::uint64_t bytes)
    : nbd_(nbd_create()), bytes_(bytes)
{
    if (!nbd_ || nbd_set_export_name(nbd_.get(), name.c_str()) != 0 ||
        nbd_add_meta_context(nbd_.get(), LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
        nbd_connect_unix(nbd_.get(), socket.c_str()) != 0)
    {
        throw nbdError("cannot open the export of " + name);
    }
    if (nbd_get_size(nbd_.get()) != static_cast<std::int64_t>(bytes))
    {
        throw Error(fmt::format("{} has {} bytes, {} were expected", name,
                                nbd_get_size(nbd_.get()), bytes));
    }
    findData();
}

NbdImage::~NbdImage()
{
    nbd_shutdown(nbd_.get(), 0);
}

void NbdImage::findData()
{
    std::uint64_t at = 0;
    auto take = [&](const std::uint32_t* entries, std::size_t count) {
        for (std::size_t i = 0; i + 1 < count && at < bytes_; i += 2)
        {
            std::uint64_t end = std::min(bytes_, at + entries[i]);
            bool zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0;
            if (!zero && !data_.empty() && data_.back().end == at)
            {
                data_.back().end = end;
            }
            else if (!zero)
            {
                data_.push_back({at, end});
            }
            at = end;
        }
    };
    using Take = decltype(take);
    nbd_extent_callback callback = {};
    callback.user_data = &take;
    callback.callback = [](void* user, const char* /*context*/,
                           std::uint64_t /*offset*/, std::uint32_t* entries,
                           std::size_t count, int* /*error*/) {
        (*static_cast<Take*>(user))(entries, count);
        return 0;
    };
    while (at < bytes_)
    {
        std::uint64_t before = at;
        std::uint64_t count = std::min(statusBytes, bytes_ - at);
        if (nbd_block_status(nbd_.get(), count, at, callback, 0) != 0)
        {
            throw nbdError("cannot read the allocation of a disk");
        }
        if (at == before || data_.size() > extentsMax)
        {
            throw Error("QEMU does not say what of a disk is allocated");
        }
    }
}

std::uint64_t NbdImage::nextData(std::uint64_t begin)
{
    auto range = std::ranges::upper_bound(data_, begin, {}, &Range::end);
    return range == data_.end() ? bytes_ : std::max(begin, range->begin);
}

void NbdImage::read(std::span<std::uint8_t> out, std::uint64_t offset)
{
    if (nbd_pread(nbd_.get(), out.data(), out.size(), offset, 0) != 0)
    {
        throw nbdError(fmt::format("cannot read a disk at {:#x}", offset));
    }
}

DiskExport::DiskExport(QmpCommands& qmp, const std::vector<QemuDisk>& disks)
    : qmp_(qmp), disks_(disks), directory_("airlock-nbd")
{
    stop();
    UniqueFd socket = listenUnix(directory_.path() / "socket");
    qmp_.executeWithFd("getfd", {{"fdname", "airlock-nbd"}}, socket.get());
    qmp_.execute(
        "nbd-server-start",
        {{"addr", {{"type", "fd"}, {"data", {{"str", "airlock-nbd"}}}}}});
    try
    {
        for (std::size_t i = 0; i < disks_.size(); i++)
        {
            qmp_.execute("block-export-add", {{"type", "nbd"},
                                              {"id", exportName(i)},
                                              {"name", exportName(i)},
                                              {"node-name", disks_[i].node}});
        }
    }
    catch (...)
    {
        stop();
        throw;
    }
}

DiskExport::~DiskExport()
{
    stop();
}

void DiskExport::stop() noexcept
{
    try
    {
        qmp_.execute("nbd-server-stop");
    }
    catch (const std::exception&)
    {
        // None was running, or QEMU has gone and took it along.
    }
}

std::unique_ptr<NbdImage> DiskExport::open(std::size_t index) const
{
    return std::make_unique<NbdImage>(directory_.path() / "socket",
                                      exportName(index),
                                      disks_.at(index).bytes);
}

} // namespace airlock::host
