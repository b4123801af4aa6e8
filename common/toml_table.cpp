#include "common/toml_table.hpp"

#include "common/error.hpp"

#include <fmt/format.h>

#include <utility>

namespace airlock
{

namespace
{

const toml::table emptyTable;

/** Of a table that is not in the file, but known: no line. */
std::string place(const toml::node& node)
{
    auto line = node.source().begin.line;
    return line == 0 ? std::string() : fmt::format("line {}: ", line);
}

} // namespace

const toml::node* TomlTable::find(const char* key)
{
    known_.insert(key);
    if (asked_ != nullptr)
    {
        asked_->insert(name_ + key);
    }
    return table_.get(key);
}

void TomlTable::refuse(const toml::node& node, std::string_view key,
                       const std::string& why) const
{
    throw Error(fmt::format("{}{}{} {}", place(node), name_, key, why));
}

void TomlTable::refuse(const std::string& why) const
{
    throw Error(place(table_) + why);
}

void TomlTable::text(const char* key, std::string& out)
{
    if (const toml::node* node = find(key))
    {
        auto value = node->value_exact<std::string>();
        if (!value)
        {
            refuse(*node, key, "has to be a text");
        }
        out = *value;
    }
}

void TomlTable::path(const char* key, std::filesystem::path& out)
{
    std::string value = out.string();
    text(key, value);
    out = value;
}

void TomlTable::flag(const char* key, bool& out)
{
    if (const toml::node* node = find(key))
    {
        auto value = node->value_exact<bool>();
        if (!value)
        {
            refuse(*node, key, "has to be true or false");
        }
        out = *value;
    }
}

void TomlTable::time(const char* key, std::chrono::seconds& out)
{
    // No time-out is longer, and sums of a few fit everywhere.
    constexpr std::int64_t tenYears = 10LL * 365 * 24 * 3600;
    std::int64_t value = out.count();
    number(key, value, 1, tenYears);
    out = std::chrono::seconds(value);
}

bool TomlTable::inRange(const char* key, std::int64_t least, std::int64_t most,
                        std::int64_t& out)
{
    const toml::node* node = find(key);
    if (node == nullptr)
    {
        return false;
    }
    auto value = node->value_exact<std::int64_t>();
    if (!value || *value < least || *value > most)
    {
        refuse(*node, key,
               fmt::format("has to be a number from {} to {}", least, most));
    }
    out = *value;
    return true;
}

TomlTable TomlTable::sub(const char* key)
{
    const toml::node* node = find(key);
    if (node != nullptr && !node->is_table())
    {
        refuse(*node, key, "has to be a table");
    }
    return TomlTable(node == nullptr ? emptyTable : *node->as_table(),
                     name_ + key + ".", asked_);
}

void TomlTable::tables(const char* key,
                       const std::function<void(TomlTable&)>& each)
{
    const toml::node* node = find(key);
    if (node == nullptr && asked_ != nullptr)
    {
        TomlTable table(emptyTable, name_ + key + ".", asked_);
        each(table);
    }
    if (node == nullptr)
    {
        return;
    }
    if (!node->is_array() || !node->is_array_of_tables())
    {
        refuse(*node, key,
               fmt::format("has to be tables [[{}{}]]", name_, key));
    }
    for (const toml::node& item : *node->as_array())
    {
        TomlTable table(*item.as_table(), name_ + key + ".", asked_);
        each(table);
        table.done();
    }
}

void TomlTable::done() const
{
    for (const auto& [key, node] : table_)
    {
        if (!known_.contains(key.str()))
        {
            refuse(node, key.str(), "is not known");
        }
    }
}

void readToml(const std::filesystem::path& file,
              const std::function<void(TomlTable&)>& read)
try
{
    toml::table content = toml::parse_file(file.string());
    TomlTable top(content);
    read(top);
    top.done();
}
catch (const toml::parse_error& error)
{
    throw Error(fmt::format("{}: line {}: {}", file.string(),
                            error.source().begin.line, error.description()));
}
catch (const Error& error)
{
    throw Error(file.string() + ": " + error.what());
}

std::vector<std::string> tomlKeys(const std::function<void(TomlTable&)>& read)
{
    TomlTable::Keys keys;
    TomlTable top(emptyTable, "", &keys);
    read(top);
    std::erase_if(keys, [&](const std::string& key) {
        auto inside = keys.lower_bound(key + ".");
        return inside != keys.end() && inside->starts_with(key + ".");
    });
    return {keys.begin(), keys.end()};
}

} // namespace airlock
