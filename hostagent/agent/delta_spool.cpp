#include "hostagent/agent/delta_spool.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <system_error>

namespace airlock::host
{

namespace
{

constexpr std::size_t listMax = 64U << 10;
constexpr std::size_t hashStep = 1U << 20;

std::optional<std::uint64_t> inodeOf(const DomainDisk& disk)
{
    struct stat info = {};
    if (disk.type != "file" || ::stat(disk.source.c_str(), &info) != 0)
    {
        return std::nullopt;
    }
    return info.st_ino;
}

Json toJson(const SpooledDisk& disk)
{
    Json out = {{"target", disk.target},
                {"type", disk.type},
                {"source", disk.source},
                {"bytes", disk.bytes},
                {"read-only", disk.readOnly}};
    if (disk.inode)
    {
        out["inode"] = *disk.inode;
    }
    if (disk.delta)
    {
        out["delta"] = {{"bytes", disk.delta->bytes},
                        {"sha256", toHex(disk.delta->sha256)}};
    }
    return out;
}

SpooledDisk fromJson(const JsonField& field)
{
    SpooledDisk out;
    out.target = field.at("target").string();
    out.type = field.at("type").string();
    out.source = field.at("source").string();
    out.bytes = field.at("bytes").u64();
    out.readOnly = field.at("read-only").boolean();
    if (auto inode = field.find("inode"))
    {
        out.inode = inode->u64();
    }
    if (auto delta = field.find("delta"))
    {
        out.delta = {delta->at("bytes").u64(), delta->at("sha256").digest()};
    }
    return out;
}

/** What tells two disks apart, for an operator; empty when nothing does. */
std::string difference(const SpooledDisk& was, const SpooledDisk& is)
{
    if (was.target != is.target)
    {
        return fmt::format("was {}", was.target);
    }
    if (was.type != is.type || was.source != is.source)
    {
        return fmt::format("was {} {}, is {} {}", was.type,
                           printable(was.source), is.type,
                           printable(is.source));
    }
    if (was.bytes != is.bytes)
    {
        return fmt::format("had {} bytes, has {}", was.bytes, is.bytes);
    }
    if (was.readOnly != is.readOnly)
    {
        return was.readOnly ? "was read-only" : "is read-only now";
    }
    if (was.inode && is.inode && *was.inode != *is.inode)
    {
        return fmt::format("{} is another file by now", printable(is.source));
    }
    return "";
}

Digest digestOf(int fd, std::uint64_t bytes)
{
    Sha256 hash;
    Bytes piece(hashStep);
    for (std::uint64_t at = 0; at < bytes; at += hashStep)
    {
        auto part = std::span(piece).first(static_cast<std::size_t>(
            std::min<std::uint64_t>(hashStep, bytes - at)));
        readExactAt(fd, part, at);
        hash.update(part);
    }
    return hash.finish();
}

} // namespace

std::vector<SpooledDisk> spooledDisks(const DomainSpec& spec,
                                      const std::vector<QemuDisk>& disks)
{
    std::vector<SpooledDisk> out;
    for (std::size_t i = 0; i < disks.size(); i++)
    {
        const DomainDisk& disk = spec.disks.at(i);
        out.push_back({disk.target, disk.type, disk.source, disks[i].bytes,
                       disks[i].readOnly, inodeOf(disk), std::nullopt});
    }
    return out;
}

DeltaSpool::DeltaSpool(std::filesystem::path directory, std::string uuid,
                       std::uint64_t generation)
    : directory_(std::move(directory)),
      prefix_(fmt::format("{}-{}-disk", uuid, generation))
{}

std::filesystem::path DeltaSpool::file(std::size_t disk) const
{
    return directory_ / fmt::format("{}{}", prefix_, disk);
}

std::filesystem::path DeltaSpool::list() const
{
    return directory_ / (prefix_ + "s");
}

void DeltaSpool::complete(const std::vector<SpooledDisk>& disks) const
{
    Json all = Json::array();
    for (const SpooledDisk& disk : disks)
    {
        all.push_back(toJson(disk));
    }
    writeFileAtomic(list(), dumpJson(all), 0600);
    syncDirectory(directory_);
}

std::vector<SpooledDisk> DeltaSpool::readList() const
{
    if (!std::filesystem::exists(list()))
    {
        throw Refused("delta", list().string() +
                                   ", which says what disks it is for, "
                                   "is missing");
    }
    Json all = parseJson(readTextFile(list(), listMax), "delta");
    JsonField field(all, "delta");
    std::vector<SpooledDisk> out;
    std::size_t count = field.arraySize();
    for (std::size_t i = 0; i < count; i++)
    {
        out.push_back(fromJson(field.element(i)));
    }
    return out;
}

std::vector<std::optional<UniqueFd>>
DeltaSpool::open(const std::vector<SpooledDisk>& disks) const
{
    std::vector<SpooledDisk> were = readList();
    if (were.size() != disks.size())
    {
        throw Refused("delta", fmt::format("is for {} disks, there are {}",
                                           were.size(), disks.size()));
    }
    std::vector<std::optional<UniqueFd>> out(disks.size());
    for (std::size_t i = 0; i < disks.size(); i++)
    {
        std::string where = "delta of disk " + disks[i].target;
        std::string what = difference(were[i], disks[i]);
        if (!what.empty())
        {
            throw Refused(where, "is not for this disk, which " + what);
        }
        if (disks[i].readOnly)
        {
            continue;
        }
        if (!were[i].delta || !std::filesystem::exists(file(i)))
        {
            throw Refused(where, "is missing");
        }
        out[i] = openFile(file(i), O_RDONLY | O_NOFOLLOW);
        const boot::DeltaFile& delta = *were[i].delta;
        if (fileSize(out[i]->get()) != delta.bytes ||
            digestOf(out[i]->get(), delta.bytes) != delta.sha256)
        {
            throw Refused(where, "is not what the boot server sent");
        }
    }
    return out;
}

void DeltaSpool::remove(const std::filesystem::path& directory,
                        const std::string& uuid)
{
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(directory, ignored))
    {
        if (entry.path().filename().string().starts_with(uuid))
        {
            std::filesystem::remove(entry.path(), ignored);
        }
    }
}

} // namespace airlock::host
