#include "devmodel/handover/ram.hpp"

#include "devmodel/handover/format.hpp"

namespace airlock::handover
{

namespace
{

constexpr std::string_view kRam = "ram/0";
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kFlagBits = kPageSize - 1;
constexpr std::size_t kMaxBlocks = 256;

/** RAM_SAVE_FLAG_*; a record has one of them, besides Continue. Those that
 * only other capabilities use (XBZRLE, HOOK) are not known here. */
enum RecordFlag : std::uint64_t
{
    Zero = 0x02,
    MemSize = 0x04,
    Page = 0x08,
    Eos = 0x10,
    Continue = 0x20,
    MultifdFlush = 0x200,
};

} // namespace

void RamReader::readBlocks(ByteReader& in)
{
    std::uint64_t record = in.be64();
    if ((record & kFlagBits) != MemSize)
    {
        throw Refused(kRam, "does not start with its list of blocks");
    }
    std::uint64_t left = record & ~kFlagBits;
    while (left != 0)
    {
        readBlock(in, left);
    }
    if (in.be64() != Eos)
    {
        throw Refused(kRam, "list of blocks has no end");
    }
}

void RamReader::readBlock(ByteReader& in, std::uint64_t& left)
{
    RamBlock block;
    block.name = readCountedName(in);
    block.size = in.be64();
    block.address = addresses_ ? in.be64() : 0;
    if (block.size == 0 || block.size > left || block.size % kPageSize != 0)
    {
        throw Refused(kRam, "block " + block.name + " has a bad size");
    }
    left -= block.size;
    if (blocks_.size() == kMaxBlocks ||
        !index_.emplace(block.name, blocks_.size()).second)
    {
        throw Refused(kRam, "block " + block.name +
                                " is listed twice or one too many");
    }
    blocks_.push_back(std::move(block));
}

void RamReader::readPages(ByteReader& in)
{
    std::uint64_t record = in.be64();
    for (; record != Eos; record = in.be64())
    {
        if (record != MultifdFlush)
        {
            readPage(in, record);
        }
    }
}

void RamReader::readPage(ByteReader& in, std::uint64_t record)
{
    std::uint64_t kind = record & kFlagBits & ~std::uint64_t{Continue};
    if (kind != Zero && kind != Page)
    {
        throw Refused(kRam, "unknown record flags " +
                                std::to_string(record & kFlagBits) +
                                " at offset " + std::to_string(in.offset()));
    }
    RamBlock& block = selectBlock(in, (record & Continue) != 0);
    if ((record & ~kFlagBits) >= block.size)
    {
        throw Refused(kRam, "page beyond the end of block " + block.name);
    }
    if (kind == Page)
    {
        in.take(kPageSize);
        ++block.pages;
        return;
    }
    if (in.u8() != 0)
    {
        throw Refused(kRam,
                      "zero page of block " + block.name + " is not zero");
    }
    ++block.zeroPages;
}

RamBlock& RamReader::selectBlock(ByteReader& in, bool sameAsBefore)
{
    if (!sameAsBefore)
    {
        std::string name = readCountedName(in);
        auto found = index_.find(name);
        if (found == index_.end())
        {
            throw Refused(kRam, "page of unknown block " + name);
        }
        current_ = found->second;
    }
    if (!current_)
    {
        throw Refused(kRam, "first page names no block");
    }
    return blocks_[*current_];
}

} // namespace airlock::handover
