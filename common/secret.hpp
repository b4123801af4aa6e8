#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace airlock
{

/** Overwrites memory in a way that the compiler keeps. */
void wipe(std::span<std::uint8_t> memory);
/** A text that held a secret; it is empty then. */
void wipe(std::string& text);

/** A text with a secret in it, wiped at the end. */
struct WipedText
{
    std::string text;

    explicit WipedText(std::string from) : text(std::move(from)) {}
    WipedText(const WipedText&) = delete;
    WipedText& operator=(const WipedText&) = delete;
    ~WipedText() { wipe(text); }
};

/** JSON with a secret in it: its texts are wiped at the end. What was copied on
 * the way, by the JSON library for example, is not reached. */
struct WipedJson
{
    Json json;

    WipedJson() = default;
    explicit WipedJson(Json from) : json(std::move(from)) {}
    WipedJson(WipedJson&& other) noexcept { json.swap(other.json); }
    WipedJson& operator=(WipedJson&& other) noexcept
    {
        json.swap(other.json);
        return *this;
    }
    ~WipedJson() { wipeTexts(json); }

    static void wipeTexts(Json& json);
};

/** Wipes a variable of the C library kind at the end of its scope. */
template <typename T>
class WipeAtEnd
{
    static_assert(std::is_trivially_copyable_v<T>,
                  "what it points to would not be wiped");

  public:
    explicit WipeAtEnd(T& it) : it_(it) {}
    WipeAtEnd(const WipeAtEnd&) = delete;
    WipeAtEnd& operator=(const WipeAtEnd&) = delete;
    ~WipeAtEnd() { wipe({reinterpret_cast<std::uint8_t*>(&it_), sizeof it_}); }

  private:
    T& it_;
};

/** Bytes that nobody else may know: wiped when they go or are replaced, copied
 * by Secret(other.view()) and never by accident, compared in constant time.
 * There is no way to print them.
 *
 * What a caller copies out of view() is the caller's to wipe.
 */
class Secret
{
  public:
    /** Of what other keys derive from. */
    static constexpr std::size_t keySize = 32;

    /** Empty. */
    Secret() = default;
    /** Zeros, to be written through bytes(). */
    explicit Secret(std::size_t size);
    explicit Secret(ByteView from);
    /** The other one is empty then. */
    Secret(Secret&& other) noexcept;
    Secret& operator=(Secret&& other) noexcept;
    ~Secret() { wipeNow(); }

    /** Fresh ones: fillRandom(). */
    static Secret random(std::size_t size = keySize);
    /** From exactly keySize bytes; Refused naming `where` otherwise. */
    static Secret key(ByteView from, std::string_view where);
    /** From its hexadecimal digits. Refused naming the field, and not what is
     * in it. */
    static Secret key(const JsonField& field);
    /** Several in one, to be sealed; each has to be of this size. */
    static Secret join(std::initializer_list<const Secret*> parts,
                       std::size_t partSize);

    ByteView view() const { return {data_.get(), size_}; }
    std::span<std::uint8_t> bytes() { return {data_.get(), size_}; }
    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    /** In a time that depends on the length only. */
    bool equals(ByteView other) const;

  private:
    void wipeNow() noexcept;

    std::unique_ptr<std::uint8_t[]> data_;
    std::size_t size_ = 0;
};

/** For records that are copied: the secret in them stays where it is. */
using SharedSecret = std::shared_ptr<const Secret>;

/** HKDF with SHA-256 (RFC 5869), without salt: `out` from a key and a text
 * that says what for. Throws Error for a key of less than 16 bytes: all could
 * work out what derives from an empty one. */
void hkdf(const Secret& key, ByteView info, std::span<std::uint8_t> out);

} // namespace airlock
