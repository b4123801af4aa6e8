#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"

#include <array>
#include <cstddef>
#include <string>
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

    explicit WipedJson(Json from) : json(std::move(from)) {}
    WipedJson(const WipedJson&) = delete;
    WipedJson& operator=(const WipedJson&) = delete;
    ~WipedJson() { wipeTexts(json); }

    static void wipeTexts(Json& json);
};

/** 32 bytes that nobody else may know. Wiped at the end; there is no way to
 * print it or to compare it other than in constant time. */
class Secret
{
  public:
    static constexpr std::size_t size = 32;

    /** Fresh bytes from the kernel. */
    static Secret random();
    /** From exactly 32 bytes; Refused naming `where` otherwise. */
    static Secret from(ByteView data, std::string_view where);

    Secret(const Secret&) = default;
    Secret& operator=(const Secret&) = default;
    ~Secret() { wipe(bytes_); }

    ByteView view() const { return bytes_; }

  private:
    Secret() = default;

    std::array<std::uint8_t, size> bytes_{};
};

/** HKDF with SHA-256 (RFC 5869), without salt: `out` from a key and a text
 * that says what for. */
void hkdf(ByteView key, ByteView info, std::span<std::uint8_t> out);

} // namespace airlock
