#include "bootsrv/machine/seal_store.hpp"

#include "common/file.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace airlock::machine
{

namespace
{

constexpr std::string_view magic = "AIRSEAL1";
constexpr std::size_t headerSize = 8 + 8 + 4 + 32;
constexpr std::size_t maxText = SealStore::slotSize - headerSize;
/** A longer log is left out: it only serves predictions. */
constexpr std::size_t maxLog = 96U << 10;
constexpr std::size_t maxPolicies = 64;

std::optional<trust::SealedBlob> blobOf(const JsonField& record,
                                        const char* name)
{
    auto field = record.find(name);
    if (!field)
    {
        return std::nullopt;
    }
    return trust::SealedBlob::parse(field->hex(trust::SealedBlob::maxSize),
                                    name);
}

void putBlob(Json& to, const char* name,
             const std::optional<trust::SealedBlob>& blob)
{
    if (blob)
    {
        to[name] = toHex(blob->marshal());
    }
}

struct Slot
{
    std::uint64_t sequence = 0;
    Secret text; ///< empty: not a whole record. A request may be in it
};

Slot readSlot(int fd, std::uint64_t offset)
{
    Bytes header(headerSize);
    readExactAt(fd, header, offset);
    ByteReader reader(header, "seal record");
    ByteView start = reader.take(magic.size());
    if (!std::equal(start.begin(), start.end(), magic.begin()))
    {
        return {};
    }
    const std::uint64_t sequence = reader.be64();
    const std::uint32_t length = reader.be32();
    if (length == 0 || length > maxText)
    {
        return {};
    }
    Secret text(length);
    readExactAt(fd, text.bytes(), offset + headerSize);
    const Digest digest = sha256(text.view());
    ByteView want = reader.take(digest.size());
    if (!std::equal(want.begin(), want.end(), digest.begin()))
    {
        return {};
    }
    return {sequence, std::move(text)};
}

Secret frame(std::uint64_t sequence, ByteView text)
{
    ByteWriter header;
    header.text(magic);
    header.be64(sequence);
    header.be32(static_cast<std::uint32_t>(text.size()));
    header.bytes(sha256(text));
    Secret out(headerSize + text.size());
    std::ranges::copy(header.data(), out.bytes().begin());
    std::ranges::copy(text, out.bytes().begin() + headerSize);
    return out;
}

/** The slots, the newer one first. */
struct Slots
{
    Slot newer;
    Slot older;
    unsigned newerAt = 1;
};

Slots readSlots(int fd, std::uint64_t offset)
{
    Slot first = readSlot(fd, offset);
    Slot second = readSlot(fd, offset + SealStore::slotSize);
    const bool firstIsNewer =
        !first.text.empty() &&
        (second.text.empty() || first.sequence > second.sequence);
    return firstIsNewer ? Slots{std::move(first), std::move(second), 0}
                        : Slots{std::move(second), std::move(first), 1};
}

void sync(int fd)
{
    if (::fsync(fd) != 0)
    {
        throwErrno("cannot write the seal record");
    }
}

} // namespace

Json SealRecord::toJson() const
{
    Json out = {{"version", 1}, {"policies", Json::array()}};
    for (const trust::SignedPolicy& policy : policies)
    {
        out["policies"].push_back(policy.toJson());
    }
    putBlob(out, "blob", blob);
    putBlob(out, "next", next);
    putBlob(out, "authorizations", authorizations);
    if (machine)
    {
        out["machine"] = machine->toJson();
    }
    if (retireOld)
    {
        out["retire_old"] = true;
    }
    if (!log.empty() && log.size() <= maxLog)
    {
        out["log"] = toHex(log);
    }
    if (target)
    {
        out["target"] = toHex(*target);
    }
    if (request)
    {
        out["request"] = request->toJson();
    }
    if (rotation)
    {
        out["rotation"] = rotation->toJson();
    }
    return out;
}

SealRecord SealRecord::parse(const JsonField& field)
{
    field.onlyKeys({"version", "policies", "blob", "next", "authorizations",
                    "machine", "log", "target", "request", "rotation",
                    "retire_old"});
    if (field.at("version").u64() != 1)
    {
        field.at("version").refuse("is not 1");
    }
    SealRecord out;
    const JsonField policies = field.at("policies");
    for (std::size_t i = 0; i < policies.arraySize(maxPolicies); i++)
    {
        out.policies.push_back(trust::SignedPolicy::parse(policies.element(i)));
    }
    out.blob = blobOf(field, "blob");
    out.next = blobOf(field, "next");
    out.authorizations = blobOf(field, "authorizations");
    if (auto machine = field.find("machine"))
    {
        out.machine = trust::Machine::parse(*machine);
    }
    if (auto retire = field.find("retire_old"))
    {
        out.retireOld = retire->boolean();
    }
    if (auto log = field.find("log"))
    {
        out.log = log->hex(maxLog);
    }
    if (auto target = field.find("target"))
    {
        out.target = target->digest();
    }
    if (auto request = field.find("request"))
    {
        out.request = EnrolmentRequest::parse(*request);
    }
    if (auto rotation = field.find("rotation"))
    {
        out.rotation = RotationRequest::parse(*rotation);
    }
    return out;
}

SealRecord SealStore::read() const
{
    UniqueFd fd = openFile(device_, O_RDONLY);
    const Slots slots = readSlots(fd.get(), offset_);
    if (slots.newer.text.empty())
    {
        return {};
    }
    const WipedJson record(parseJson(asText(slots.newer.text.view()),
                                     "seal record", {maxText, 16}));
    return SealRecord::parse(JsonField(record.json, "seal record"));
}

void SealStore::write(const SealRecord& record) const
{
    const WipedJson json(record.toJson());
    const WipedText wiped(dumpJson(json.json));
    const ByteView text = asBytes(wiped.text);
    if (text.size() > maxText)
    {
        throw Refused("seal record", "is too long");
    }
    UniqueFd fd = openFile(device_, O_RDWR);
    const Slots slots = readSlots(fd.get(), offset_);
    writeAllAt(fd.get(), frame(slots.newer.sequence + 1, text).view(),
               offset_ + (slots.newerAt == 0 ? slotSize : 0));
    sync(fd.get());
}

void SealStore::overwrite(const SealRecord& record) const
{
    write(record);
    UniqueFd fd = openFile(device_, O_RDWR);
    const Slots slots = readSlots(fd.get(), offset_);
    writeAllAt(fd.get(), Bytes(slotSize),
               offset_ + (slots.newerAt == 0 ? slotSize : 0));
    sync(fd.get());
    // The slot in force may have been longer before.
    const std::size_t used = headerSize + slots.newer.text.size();
    writeAllAt(fd.get(), Bytes(slotSize - used),
               offset_ + (slots.newerAt == 0 ? 0 : slotSize) + used);
    sync(fd.get());
}

} // namespace airlock::machine
