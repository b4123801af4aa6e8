#pragma once

#include <toml++/toml.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace airlock
{

/** A table of a configuration file. What is not there leaves its default as it
 * is. Every key has to be asked for: done() refuses those that nobody knows.
 * Throws Error with the line, see readToml(). The toml::table has to outlive
 * it. */
class TomlTable
{
  public:
    /** Full names of keys: "tls.key". */
    using Keys = std::set<std::string>;

    /** `name` goes before each key in messages: "tls." All keys that are asked
     * for are put into `asked`, those of sub-tables too. */
    explicit TomlTable(const toml::table& table, std::string name = "",
                       Keys* asked = nullptr)
        : table_(table), name_(std::move(name)), asked_(asked)
    {}

    void text(const char* key, std::string& out);
    void path(const char* key, std::filesystem::path& out);
    void flag(const char* key, bool& out);
    /** Whole seconds, at least one. */
    void time(const char* key, std::chrono::seconds& out);
    template <typename Number>
    void number(const char* key, Number& out, std::int64_t least,
                std::int64_t most = mostOf<Number>())
    {
        std::int64_t value = 0;
        if (inRange(key, least, most, value))
        {
            out = static_cast<Number>(value);
        }
    }
    /** An empty one when it is not there. */
    TomlTable sub(const char* key);
    /** Calls `each` for the tables of an array, [[key]], and done() for each
     * of them. */
    void tables(const char* key, const std::function<void(TomlTable&)>& each);
    /** Refuses keys that were not asked for. */
    void done() const;

    /** Throws Error with the table's line. */
    [[noreturn]] void refuse(const std::string& why) const;

  private:
    template <typename Number>
    static constexpr std::int64_t mostOf()
    {
        constexpr auto most = std::numeric_limits<std::int64_t>::max();
        return std::cmp_less(most, std::numeric_limits<Number>::max())
                   ? most
                   : static_cast<std::int64_t>(
                         std::numeric_limits<Number>::max());
    }

    const toml::node* find(const char* key);
    bool inRange(const char* key, std::int64_t least, std::int64_t most,
                 std::int64_t& out);
    [[noreturn]] void refuse(const toml::node& node, std::string_view key,
                             const std::string& why) const;

    const toml::table& table_;
    std::string name_;
    Keys* asked_;
    std::set<std::string, std::less<>> known_;
};

/** Has `read` take a file apart. All errors begin with the file's name:
 * "hostd.toml: line 3: tls.key has to be a text". */
void readToml(const std::filesystem::path& file,
              const std::function<void(TomlTable&)>& read);

/** The keys that `read` asks for, without those that are tables. Sorted. An
 * array of tables is gone through once, with an empty table: `read` must not
 * mind missing keys. */
std::vector<std::string> tomlKeys(const std::function<void(TomlTable&)>& read);

} // namespace airlock
