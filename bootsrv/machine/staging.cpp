#include "bootsrv/machine/staging.hpp"

#include "common/error.hpp"
#include "devmodel/handover/image_stream.hpp"
#include "devmodel/handover/manifest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

namespace airlock::machine
{

namespace
{

constexpr std::string_view headerMagic = "ALSTAGE1";
constexpr std::string_view recordMagic = "ALRECRD1";
constexpr std::uint64_t pieceBytes = 256U << 10;
/** A file system on the scratch area needs a little itself. */
constexpr std::uint64_t scratchExtra = 64U << 20;

std::uint64_t alignUp(std::uint64_t value, std::uint64_t to)
{
    return (value + to - 1) / to * to;
}

/** Puts slots one behind the other. */
class SlotMaker
{
  public:
    Slot add(RecordKind kind, std::size_t number, std::uint64_t room)
    {
        Slot out{kind, static_cast<std::uint32_t>(number), end_, room};
        end_ = alignUp(end_ + sectorBytes + room, stagingAlign);
        return out;
    }

    std::uint64_t end() const { return end_; }

  private:
    std::uint64_t end_ = 0;
};

/** All but the size of scratch. */
Layout placesFor(const boot::JobRequest& request)
{
    Layout out;
    SlotMaker in;
    SlotMaker back;
    out.request = in.add(RecordKind::request, 0, requestMaxBytes);
    out.result = back.add(RecordKind::result, 0, resultMaxBytes);
    out.state = back.add(RecordKind::state, 0, handover::deviceStateMaxBytes);
    out.memory = back.add(RecordKind::memory, 0,
                          handover::imageStreamMaxBytes(request.guest.memory));
    for (std::size_t i = 0; i < request.disks.size(); i++)
    {
        const boot::DiskShape& disk = request.disks[i];
        std::uint64_t room = handover::imageStreamMaxBytes(disk.bytes);
        out.disks.push_back(in.add(RecordKind::disk, i, room));
        out.deltas.emplace_back();
        if (!disk.readOnly)
        {
            out.deltas.back() = back.add(RecordKind::delta, i, room);
        }
    }
    out.in = {stagingAlign, in.end()};
    out.out = {out.in.offset + out.in.bytes, back.end()};
    out.scratch.offset = out.out.offset + out.out.bytes;
    return out;
}

std::uint64_t scratchFor(const boot::JobRequest& request)
{
    std::uint64_t files = request.bytes();
    return alignUp(files + files / 32 + scratchExtra, stagingAlign);
}

} // namespace

std::uint64_t Layout::bytesFor(const boot::JobRequest& request)
{
    return placesFor(request).scratch.offset + scratchFor(request);
}

Layout Layout::of(const boot::JobRequest& request, std::uint64_t stagingBytes)
{
    Layout out = placesFor(request);
    if (bytesFor(request) > stagingBytes)
    {
        throw Refused("staging", fmt::format("the job needs {} bytes of {}",
                                             bytesFor(request), stagingBytes));
    }
    out.scratch.bytes =
        (stagingBytes - out.scratch.offset) / stagingAlign * stagingAlign;
    return out;
}

Area Layout::firstArea()
{
    return {stagingAlign, stagingAlign};
}

Slot Layout::requestSlot()
{
    return SlotMaker().add(RecordKind::request, 0, requestMaxBytes);
}

bool hasHeader(Blocks& staging)
{
    Bytes block(headerBytes);
    staging.read(block, 0);
    return std::any_of(block.begin(), block.end(),
                       [](std::uint8_t byte) { return byte != 0; });
}

std::optional<Secret> parseHeader(ByteView bytes)
{
    if (std::all_of(bytes.begin(), bytes.end(),
                    [](std::uint8_t byte) { return byte == 0; }))
    {
        return std::nullopt;
    }
    ByteReader reader(bytes, "staging header");
    ByteView magic = reader.take(headerMagic.size());
    ByteView key = reader.take(Secret::keySize);
    ByteView said = reader.take(sizeof(Digest));
    ByteView rest = reader.rest();
    Digest digest = sha256(bytes.first(headerMagic.size() + Secret::keySize));
    if (!std::equal(magic.begin(), magic.end(), headerMagic.begin()) ||
        !equalConstantTime(said, digest) ||
        std::any_of(rest.begin(), rest.end(),
                    [](std::uint8_t byte) { return byte != 0; }))
    {
        throw Refused("staging header", "is damaged");
    }
    return Secret::key(key, "staging header");
}

std::optional<Secret> readHeader(Blocks& staging)
{
    Bytes block(headerBytes);
    staging.read(block, 0);
    std::optional<Secret> out = parseHeader(block);
    wipe(block);
    return out;
}

void writeHeader(Blocks& staging, const Secret& jobKey)
{
    if (jobKey.size() != Secret::keySize)
    {
        throw Error("the key of a job has another size");
    }
    ByteWriter out;
    out.reserve(headerBytes);
    out.text(headerMagic);
    out.bytes(jobKey.view());
    out.bytes(sha256(out.data()));
    Bytes block = out.release();
    block.resize(headerBytes);
    staging.write(block, 0);
    wipe(block);
    staging.sync();
}

void clearHeader(Blocks& staging)
{
    staging.write(Bytes(headerBytes), 0);
    staging.sync();
}

Bytes RecordHead::write(const Slot& slot) const
{
    ByteWriter out;
    out.text(recordMagic);
    out.be32(static_cast<std::uint32_t>(slot.kind));
    out.be32(slot.number);
    out.be64(bytes);
    out.bytes(sha256);
    Bytes sector = out.release();
    sector.resize(sectorBytes);
    return sector;
}

std::optional<RecordHead> RecordHead::parse(ByteView sector, const Slot& slot)
{
    ByteReader reader(sector, "record");
    ByteView magic = reader.take(recordMagic.size());
    bool fits = std::equal(magic.begin(), magic.end(), recordMagic.begin());
    fits = reader.be32() == static_cast<std::uint32_t>(slot.kind) && fits;
    fits = reader.be32() == slot.number && fits;
    RecordHead out;
    out.bytes = reader.be64();
    ByteView digest = reader.take(out.sha256.size());
    std::copy(digest.begin(), digest.end(), out.sha256.begin());
    ByteView rest = reader.rest();
    fits = fits && out.bytes <= slot.room &&
           std::all_of(rest.begin(), rest.end(),
                       [](std::uint8_t byte) { return byte == 0; });
    return fits ? std::optional(out) : std::nullopt;
}

RecordWriter::RecordWriter(CryptArea& area, const Slot& slot)
    : area_(area), slot_(slot)
{
    buffer_.reserve(pieceBytes);
}

void RecordWriter::write(ByteView data)
{
    if (data.size() > slot_.room - bytes_)
    {
        throw SystemError("the place for it on the staging disk is full",
                          ENOSPC);
    }
    hash_.update(data);
    bytes_ += data.size();
    while (!data.empty())
    {
        std::size_t now =
            std::min<std::size_t>(data.size(), pieceBytes - buffer_.size());
        buffer_.insert(buffer_.end(), data.begin(),
                       data.begin() + static_cast<std::ptrdiff_t>(now));
        data = data.subspan(now);
        if (buffer_.size() == pieceBytes)
        {
            flush();
        }
    }
}

void RecordWriter::flush()
{
    buffer_.resize(alignUp(buffer_.size(), sectorBytes));
    area_.write(buffer_, slot_.offset + sectorBytes + written_);
    written_ += buffer_.size();
    buffer_.clear();
}

RecordHead RecordWriter::finish()
{
    flush();
    RecordHead head{bytes_, hash_.finish()};
    area_.write(head.write(slot_), slot_.offset);
    return head;
}

RecordHead writeRecord(CryptArea& area, const Slot& slot, ByteView data)
{
    RecordWriter writer(area, slot);
    writer.write(data);
    return writer.finish();
}

void clearRecord(CryptArea& area, const Slot& slot)
{
    area.write(Bytes(sectorBytes), slot.offset);
}

std::optional<RecordHead> findRecord(const CryptArea& area, const Slot& slot)
{
    std::array<std::uint8_t, sectorBytes> sector{};
    area.read(sector, slot.offset);
    return RecordHead::parse(sector, slot);
}

void readRecord(const CryptArea& area, const Slot& slot, const RecordHead& head,
                const std::function<void(ByteView)>& sink)
{
    Sha256 hash;
    Bytes piece(pieceBytes);
    for (std::uint64_t at = 0; at < head.bytes;)
    {
        std::uint64_t now = std::min(head.bytes - at, pieceBytes);
        std::span<std::uint8_t> part = std::span(piece).first(now);
        area.read(part, slot.offset + sectorBytes + at);
        hash.update(part);
        sink(part);
        at += now;
    }
    if (hash.finish() != head.sha256)
    {
        throw Refused(fmt::format("record {}/{}",
                                  static_cast<std::uint32_t>(slot.kind),
                                  slot.number),
                      "is damaged");
    }
}

Bytes readRecord(const CryptArea& area, const Slot& slot,
                 const RecordHead& head)
{
    Bytes out;
    readRecord(area, slot, head, [&out](ByteView data) {
        out.insert(out.end(), data.begin(), data.end());
    });
    return out;
}

boot::JobRequest stagedRequest(Blocks& staging, const Secret& jobKey)
{
    const CryptArea first(staging, Layout::firstArea(), jobKey, inArea);
    const Slot slot = Layout::requestSlot();
    const std::optional<RecordHead> head = findRecord(first, slot);
    if (!head)
    {
        throw Refused("staging", "has no job request");
    }
    const Bytes text = readRecord(first, slot, *head);
    return boot::JobRequest::parse(asText(text));
}

} // namespace airlock::machine
