#pragma once

#include "common/error.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace airlock
{

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

/** The bytes of a text, and the other way round. Nothing is copied. */
inline ByteView asBytes(std::string_view text)
{
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view asText(ByteView data)
{
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

inline Bytes copyOf(ByteView data)
{
    return {data.begin(), data.end()};
}

/** Reads big-endian values from a bounded view.
 *
 * Every read is checked against what is left; a read beyond the end throws
 * Refused with the name given at construction and the offset. The view must
 * outlive the reader and everything that take() returned.
 */
class ByteReader
{
  public:
    ByteReader(ByteView data, std::string_view where)
        : data_(data), where_(where)
    {}

    std::size_t offset() const { return offset_; }
    std::size_t left() const { return data_.size() - offset_; }
    bool atEnd() const { return left() == 0; }
    const std::string& where() const { return where_; }
    /** From here on refusals name this. */
    void enter(std::string_view where) { where_ = where; }

    /** All that is left, without consuming it. */
    ByteView rest() const { return data_.subspan(offset_); }

    /** The next n bytes, without a copy. */
    ByteView take(std::size_t n)
    {
        if (n > left())
        {
            throw Refused(where_, "wants " + std::to_string(n) +
                                      " bytes at offset " +
                                      std::to_string(offset_) + ", " +
                                      std::to_string(left()) + " are left");
        }
        ByteView out = data_.subspan(offset_, n);
        offset_ += n;
        return out;
    }

    template <std::unsigned_integral T>
    T be()
    {
        T value = 0;
        for (std::uint8_t byte : take(sizeof(T)))
        {
            value =
                static_cast<T>((static_cast<std::uint64_t>(value) << 8) | byte);
        }
        return value;
    }

    std::uint8_t u8() { return be<std::uint8_t>(); }
    std::uint16_t be16() { return be<std::uint16_t>(); }
    std::uint32_t be32() { return be<std::uint32_t>(); }
    std::uint64_t be64() { return be<std::uint64_t>(); }

    /** The next byte without consuming it; -1 at the end. */
    int peek(std::size_t ahead = 0) const
    {
        return ahead < left() ? data_[offset_ + ahead] : -1;
    }

  private:
    ByteView data_;
    std::string where_;
    std::size_t offset_ = 0;
};

/** Appends big-endian values to a buffer that it owns. */
class ByteWriter
{
  public:
    template <std::unsigned_integral T>
    void be(T value)
    {
        const std::size_t at = out_.size();
        out_.resize(at + sizeof(T));
        for (std::size_t i = 0; i < sizeof(T); ++i)
        {
            out_[at + i] = static_cast<std::uint8_t>(
                static_cast<std::uint64_t>(value) >> (8 * (sizeof(T) - 1 - i)));
        }
    }

    void u8(std::uint8_t value) { be(value); }
    void be16(std::uint16_t value) { be(value); }
    void be32(std::uint32_t value) { be(value); }
    void be64(std::uint64_t value) { be(value); }
    void bytes(ByteView data)
    {
        out_.insert(out_.end(), data.begin(), data.end());
    }
    void text(std::string_view data)
    {
        out_.insert(out_.end(), data.begin(), data.end());
    }

    /** For writers that know about how much will come. */
    void reserve(std::size_t size) { out_.reserve(size); }

    std::size_t size() const { return out_.size(); }
    const Bytes& data() const { return out_; }
    Bytes release() { return std::move(out_); }

  private:
    Bytes out_;
};

} // namespace airlock
