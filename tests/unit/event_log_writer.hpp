#pragma once

#include "trust/event_log.hpp"
#include "trust/wire.hpp"

#include <string_view>

/** Event logs of boots that never were. */
namespace airlock::test
{

inline Digest hashOf(std::string_view text)
{
    return sha256(asBytes(text));
}

/** Writes little-endian numbers. */
class Writer
{
  public:
    Writer& le(std::uint64_t value, unsigned bytes)
    {
        for (unsigned i = 0; i < bytes; ++i)
        {
            out_.u8(static_cast<std::uint8_t>(value >> (8 * i)));
        }
        return *this;
    }
    Writer& le16(std::uint64_t value) { return le(value, 2); }
    Writer& le32(std::uint64_t value) { return le(value, 4); }
    Writer& text(std::string_view value)
    {
        out_.text(value);
        return *this;
    }
    Writer& bytes(ByteView value)
    {
        out_.bytes(value);
        return *this;
    }
    Writer& pad(std::size_t to)
    {
        while (out_.size() < to)
        {
            out_.u8(0);
        }
        return *this;
    }
    const Bytes& data() const { return out_.data(); }

  private:
    ByteWriter out_;
};

/** A log in the form of firmware, for two banks. */
class LogWriter
{
  public:
    LogWriter()
    {
        Writer spec;
        spec.text(std::string_view("Spec ID Event03\0", 16));
        spec.le32(0).le(0, 1).le(2, 1).le(0, 1).le(2, 1).le32(2);
        spec.le16(4).le16(20).le16(trust::wire::algSha256).le16(32).le(0, 1);
        out_.le32(0).le32(3).bytes(Bytes(20));
        out_.le32(spec.data().size()).bytes(spec.data());
    }

    LogWriter& event(std::uint32_t pcr, std::uint32_t type,
                     const Digest& digest, std::string_view data)
    {
        out_.le32(pcr).le32(type).le32(2);
        out_.le16(4).bytes(Bytes(20, 0xee));
        out_.le16(trust::wire::algSha256).bytes(digest);
        out_.le32(data.size()).text(data);
        return *this;
    }
    LogWriter& event(std::uint32_t pcr, std::string_view data)
    {
        return event(pcr, 0x0d, hashOf(data), data);
    }
    Writer& raw() { return out_; }
    trust::EventLog parse() const
    {
        return trust::EventLog::parse(out_.data());
    }
    const Bytes& data() const { return out_.data(); }

  private:
    Writer out_;
};

} // namespace airlock::test
