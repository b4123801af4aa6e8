#pragma once

#include "common/sha256.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace airlock
{

using Json = nlohmann::json;

/** What a JSON text from outside may be at most. */
struct JsonLimits
{
    std::size_t bytes = 16U << 20;
    std::size_t depth = 64; ///< nested arrays and objects
};

/** Parses a whole text (UTF-8, no comments).
 *
 * Throws Refused naming `where`; no exception of the JSON library escapes.
 * The one way in for JSON that we did not write ourselves.
 */
Json parseJson(std::string_view text, std::string_view where,
               const JsonLimits& limits = {});

/** Writes JSON in one line; bytes that are not UTF-8 are replaced, so it
 * cannot fail on a text that came from outside. */
std::string dumpJson(const Json& value);

/** Quotes outside text for an error message: at most `max` characters, all
 * printable ASCII. */
std::string printable(std::string_view text, std::size_t max = 64);

/** The same without quotes, for a text that is shown as a whole. */
std::string plainText(std::string_view text, std::size_t max = 1024);

/** A JSON value together with the path that led to it.
 *
 * Every getter checks the type and throws Refused with that path, for
 * example "manifest: job.nonce: is no string". Keeps a pointer: the Json must
 * outlive it.
 */
class JsonField
{
  public:
    /** `where` names the document ("manifest"). */
    JsonField(const Json& value, std::string_view where)
        : value_(&value), where_(where)
    {}

    const Json& json() const { return *value_; }
    std::string path() const;
    [[noreturn]] void refuse(std::string_view reason) const;

    /** A member of an object that has to be there. */
    JsonField at(std::string_view key) const;
    /** A member of an object that may be missing (null counts as missing). */
    std::optional<JsonField> find(std::string_view key) const;
    /** Refuses an object with members other than these. */
    void onlyKeys(std::initializer_list<std::string_view> keys) const;

    /** Length of an array; Refused when longer than max. */
    std::size_t
    arraySize(std::size_t max = std::numeric_limits<std::size_t>::max()) const;
    JsonField element(std::size_t index) const;

    std::string string(std::size_t maxLength = 4096) const;
    /** The bytes of a hexadecimal text. */
    Bytes hex(std::size_t maxBytes) const;
    /** From exactly 64 hexadecimal digits. */
    Digest digest() const;
    bool boolean() const;
    std::uint64_t
    u64(std::uint64_t max = std::numeric_limits<std::uint64_t>::max()) const;
    std::int64_t i64() const;
    double number() const;

  private:
    JsonField(const Json& value, std::string where, std::string member)
        : value_(&value), where_(std::move(where)), member_(std::move(member))
    {}

    const Json* value_;
    std::string where_;
    std::string member_;
};

} // namespace airlock
