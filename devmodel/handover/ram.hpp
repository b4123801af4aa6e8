#pragma once

#include "common/bytes.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace airlock::handover
{

/** version_id of the `ram` section (ram_load(), migration/ram.c). */
inline constexpr std::uint32_t kRamVersion = 4;

/** One memory block of the `ram` section and what was sent of it. */
struct RamBlock
{
    std::string name; ///< "ram", "pc.bios", "0000:00:02.0/vga.vram"
    std::uint64_t size = 0;
    std::uint64_t address = 0; ///< in its container; 0 when not sent
    std::uint64_t pages = 0;   ///< 4 KiB pages that came with contents
    std::uint64_t zeroPages = 0;
};

/** The iterable `ram` section, gone through but not kept. */
struct RamSummary
{
    std::vector<RamBlock> blocks;
    std::size_t chunks = 0; ///< START, PART and END sections
    std::size_t bytes = 0;  ///< headers and footers included
};

/** Goes through the records of the `ram` section (migration/ram.c:
 * ram_save_setup, save_page_header; read back by ram_load_precopy).
 *
 * Guest memory is a shared file and never in here; pages of ROM blocks are
 * counted and dropped. One object serves all chunks of the section, since a
 * record may continue the block of the record before it.
 */
class RamReader
{
  public:
    /** `addresses`: the stream has x-ignore-shared on, so that each block
     * carries its address. */
    explicit RamReader(bool addresses) : addresses_(addresses) {}

    /** The first chunk: the list of blocks. Stops after its EOS record. */
    void readBlocks(ByteReader& in);

    /** A later chunk: pages. Stops after its EOS record. */
    void readPages(ByteReader& in);

    const std::vector<RamBlock>& blocks() const { return blocks_; }

  private:
    void readBlock(ByteReader& in, std::uint64_t& left);
    void readPage(ByteReader& in, std::uint64_t record);
    RamBlock& selectBlock(ByteReader& in, bool sameAsBefore);

    bool addresses_;
    std::vector<RamBlock> blocks_;
    std::map<std::string, std::size_t, std::less<>> index_;
    std::optional<std::size_t> current_; ///< block of the last record
};

} // namespace airlock::handover
