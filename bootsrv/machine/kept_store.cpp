#include "bootsrv/machine/kept_store.hpp"

#include "common/error.hpp"
#include "trust/crypto.hpp"

#include <algorithm>

namespace airlock::machine
{

namespace
{

constexpr std::string_view magic = "ALKEPT01";
constexpr std::size_t headBytes = 8 + 8 + 4 + 12 + 16;
/** What is written at once; a multiple of every disk's sector. */
constexpr std::size_t blockBytes = 4096;
constexpr std::size_t slotBytes =
    (headBytes + KeptStore::maxText + blockBytes - 1) / blockBytes * blockBytes;
/** Numbers have room to grow. */
constexpr std::uint64_t maxSequence = 1ULL << 62;

/** Magic, sequence and length: what is authenticated beside the text. */
Bytes openPart(std::uint64_t sequence, std::size_t bytes)
{
    ByteWriter out;
    out.text(magic);
    out.be64(sequence);
    out.be32(static_cast<std::uint32_t>(bytes));
    return out.release();
}

} // namespace

KeptStore::KeptStore(Blocks& blocks, const Secret& key,
                     std::shared_ptr<SequenceAnchor> anchor)
    : blocks_(blocks), key_(key.view()), anchor_(std::move(anchor))
{
    if (blocks_.bytes() < leastBytes)
    {
        throw Error("the partition for what is kept is too small");
    }
}

std::uint64_t KeptStore::offsetOf(std::size_t number) const
{
    return number == 0 ? 0 : blocks_.bytes() / 2 / blockBytes * blockBytes;
}

Secret KeptStore::keyOf(std::uint64_t sequence) const
{
    ByteWriter info;
    info.text("airlock kept v1");
    info.u8(0);
    info.be64(sequence);
    Secret out(trust::GcmBox::keySize);
    hkdf(key_, info.data(), out.bytes());
    return out;
}

KeptStore::Slot KeptStore::read(std::size_t number)
{
    Bytes bytes(slotBytes);
    blocks_.read(bytes, offsetOf(number));
    ByteReader reader(bytes, "kept");
    ByteView start = reader.take(magic.size());
    std::uint64_t sequence = reader.be64();
    std::uint32_t size = reader.be32();
    if (!std::equal(start.begin(), start.end(), magic.begin()) ||
        size > maxText || sequence == 0 || sequence > maxSequence)
    {
        return {};
    }
    trust::GcmBox box;
    ByteView nonce = reader.take(box.nonce.size());
    std::copy(nonce.begin(), nonce.end(), box.nonce.begin());
    ByteView tag = reader.take(box.tag.size());
    std::copy(tag.begin(), tag.end(), box.tag.begin());
    ByteView text = reader.take(size);
    box.ciphertext.assign(text.begin(), text.end());
    try
    {
        Secret plain = trust::gcmOpen(keyOf(sequence), openPart(sequence, size),
                                      box, "kept");
        return {sequence, std::move(plain), true};
    }
    catch (const Refused&)
    {
        return {};
    }
}

Secret KeptStore::load()
{
    Slot first = read(0);
    Slot second = read(1);
    if (!first.good && !second.good)
    {
        throw Refused("kept", "there is nothing that this machine's key opens: "
                              "it was never installed, belongs to other "
                              "secrets, or was destroyed");
    }
    current_ = second.sequence > first.sequence ? 1 : 0;
    Slot& slot = current_ == 0 ? first : second;
    std::uint64_t floor = anchor_->floor();
    if (slot.sequence < floor)
    {
        throw Refused("kept", "is number " + std::to_string(slot.sequence) +
                                  ", the TPM has seen number " +
                                  std::to_string(floor) +
                                  ": somebody put back an older one");
    }
    sequence_ = slot.sequence;
    return std::move(slot.text);
}

void KeptStore::write(std::size_t number, std::uint64_t sequence,
                      std::string_view text)
{
    trust::GcmBox box = trust::gcmSeal(
        keyOf(sequence), openPart(sequence, text.size()), asBytes(text));
    ByteWriter out;
    out.bytes(openPart(sequence, text.size()));
    out.bytes(box.nonce);
    out.bytes(box.tag);
    out.bytes(box.ciphertext);
    Bytes bytes = out.release();
    // The rest too: nothing of a longer text is left.
    bytes.resize(slotBytes);
    blocks_.write(bytes, offsetOf(number));
    blocks_.sync();
}

void KeptStore::save(std::string_view text, Write how)
{
    if (text.size() > maxText)
    {
        throw Error("there is more to be kept than fits");
    }
    for (int times = how == Write::erasing ? 2 : 1; times > 0; times--)
    {
        std::size_t other = 1 - current_;
        // Counted even if it fails: a number is not used for two texts.
        sequence_++;
        write(other, sequence_, text);
        current_ = other;
    }
    if (how != Write::once)
    {
        anchor_->raise(sequence_);
    }
}

void KeptStore::install(std::string_view text)
{
    sequence_ = anchor_->floor();
    save(text, Write::erasing);
}

} // namespace airlock::machine
