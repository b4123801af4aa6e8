#include "bootsrv/machine/collect.hpp"
#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/staging.hpp"
#include "common/error.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace
{

using namespace airlock;
using namespace airlock::machine;

/** A disk in memory, with the input in it at some place. */
class MemoryBlocks : public Blocks
{
  public:
    explicit MemoryBlocks(std::uint64_t bytes) : data_(bytes) {}

    std::uint64_t bytes() const override { return data_.size(); }
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override
    {
        std::copy_n(data_.begin() + static_cast<std::ptrdiff_t>(offset),
                    out.size(), out.begin());
    }
    void write(ByteView data, std::uint64_t offset) override
    {
        std::copy(data.begin(), data.end(),
                  data_.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void sync() override {}
    void discard(std::uint64_t, std::uint64_t) override {}

  private:
    Bytes data_;
};

boot::JobRequest request()
{
    boot::JobRequest out;
    out.job = handover::JobTicket{"9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1,
                                  Digest{}};
    out.guest.uuid = out.job.vm;
    out.guest.memory = 1U << 20;
    out.disks = {{1U << 20, false}};
    out.timeout = std::chrono::seconds(1);
    out.tenant = "blue";
    return out;
}

class Anchor : public SequenceAnchor
{
  public:
    std::uint64_t floor() override { return 0; }
    void raise(std::uint64_t) override {}
};

/** Pieces of the input as the records of a result. */
class Target
{
  public:
    Target()
        : request_(request()), blocks_(Layout::bytesFor(request_)),
          layout_(Layout::of(request_, blocks_.bytes())),
          out_(blocks_, layout_.out, key_, outArea)
    {}

    /** The first byte says which record gets the rest; the others are good. */
    void collect(ByteView input)
    {
        writeRecord(out_, layout_.state, Bytes(10, 1));
        writeRecord(out_, layout_.memory, emptyStream(1U << 20));
        writeRecord(out_, *layout_.deltas[0], emptyStream(1U << 20));
        if (!input.empty())
        {
            ByteView rest = input.subspan(1);
            switch (input[0] % 4)
            {
            case 0:
                put(layout_.state, rest);
                break;
            case 1:
                put(layout_.memory, rest);
                break;
            case 2:
                put(*layout_.deltas[0], rest);
                break;
            default:
                raw(layout_.memory, rest);
                break;
            }
        }
        Collected made = collectResult(out_, layout_, request_, {});
        if (made.result.memoryBytes > layout_.memory.room ||
            made.stateBytes > layout_.state.room)
        {
            std::abort();
        }
    }

  private:
    static Bytes emptyStream(std::uint64_t bytes)
    {
        ByteWriter out;
        out.text("ALIMAGE1");
        out.be64(bytes);
        out.be64(~0ULL);
        out.be64(0);
        return out.release();
    }

    void put(const Slot& slot, ByteView bytes)
    {
        writeRecord(
            out_, slot,
            bytes.first(std::min<std::size_t>(bytes.size(), slot.room)));
    }

    /** As the sector that describes a record. */
    void raw(const Slot& slot, ByteView bytes)
    {
        Bytes sector(bytes.begin(), bytes.end());
        sector.resize(sectorBytes);
        out_.write(sector, slot.offset);
    }

    boot::JobRequest request_;
    MemoryBlocks blocks_;
    Layout layout_;
    Secret key_ = Secret::random();
    CryptArea out_;
};

template <typename Action>
void refusing(const Action& action)
{
    try
    {
        action();
    }
    catch (const Refused&)
    {}
}

/** A partition that begins with the input. */
void loadKept(ByteView input)
{
    static const Secret key = Secret::random();
    MemoryBlocks blocks(KeptStore::leastBytes);
    blocks.write(input.first(std::min<std::size_t>(input.size(), 100000)), 0);
    KeptStore(blocks, key, std::make_shared<Anchor>()).load();
    std::abort(); // nobody has the key
}

} // namespace

/** What dirty mode may leave in staging and in the place of what is kept: it is
 * refused or bounded, whatever it is. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    static Target target;
    ByteView input(data, size);
    std::string_view text(reinterpret_cast<const char*>(data), size);
    refusing([&] { target.collect(input); });
    refusing([&] { loadKept(input); });
    refusing([&] {
        Bytes block(input.begin(), input.end());
        block.resize(headerBytes);
        parseHeader(block);
    });
    refusing([&] {
        RunReport report = RunReport::parse(text);
        if (RunReport::parse(report.toText()).code != report.code)
        {
            std::abort();
        }
    });
    refusing([&] {
        std::string once = KeptRecord::parse(text).toText();
        if (KeptRecord::parse(once).toText() != once)
        {
            std::abort();
        }
    });
    return 0;
}
