#pragma once

#include "common/sha256.hpp"

#include <openssl/crypto.h>

#include <cstddef>
#include <memory>
#include <utility>

namespace airlock::trust
{

/** A secret in memory: cannot be copied by accident, is wiped when it goes.
 *
 * What a caller copies out of view() is the caller's to wipe.
 */
class Secret
{
  public:
    Secret() = default;
    /** Zeros, to be written through bytes(). */
    explicit Secret(std::size_t size)
        : data_(std::make_unique<std::uint8_t[]>(size)), size_(size)
    {}
    explicit Secret(ByteView from) : Secret(from.size())
    {
        std::copy(from.begin(), from.end(), data_.get());
    }
    Secret(Secret&& other) noexcept
        : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0))
    {}
    Secret& operator=(Secret&& other) noexcept
    {
        if (this != &other)
        {
            wipe();
            data_ = std::move(other.data_);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    ~Secret() { wipe(); }

    /** From the kernel's random generator. */
    static Secret random(std::size_t size)
    {
        Secret out(size);
        fillRandom(out.bytes());
        return out;
    }

    ByteView view() const { return {data_.get(), size_}; }
    std::span<std::uint8_t> bytes() { return {data_.get(), size_}; }
    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    /** In a time that depends on the length only. */
    bool equals(ByteView other) const
    {
        return equalConstantTime(view(), other);
    }

  private:
    void wipe() noexcept
    {
        if (data_)
        {
            OPENSSL_cleanse(data_.get(), size_);
            data_.reset();
        }
        size_ = 0;
    }

    std::unique_ptr<std::uint8_t[]> data_;
    std::size_t size_ = 0;
};

/** Wipes a variable of the C library kind at the end of its scope. */
template <typename T>
class WipeAtEnd
{
  public:
    explicit WipeAtEnd(T& it) : it_(it) {}
    WipeAtEnd(const WipeAtEnd&) = delete;
    WipeAtEnd& operator=(const WipeAtEnd&) = delete;
    ~WipeAtEnd() { OPENSSL_cleanse(&it_, sizeof it_); }

  private:
    T& it_;
};

} // namespace airlock::trust
