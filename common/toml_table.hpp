#pragma once

#include "common/error.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

namespace airlock
{

/** A table of a configuration file. What is not there leaves its default as it
 * is. Every key has to be asked for: done() refuses those that nobody knows.
 * Throws Error with the line. The tables have to outlive it. */
class TomlTable
{
  public:
    TomlTable(const toml::table& table, std::string name)
        : table_(table), name_(std::move(name))
    {}

    void text(const char* key, std::string& out)
    {
        if (const toml::node* node = find(key))
        {
            auto value = node->value_exact<std::string>();
            out = value ? *value : refuse(*node, key, "has to be a text");
        }
    }
    void path(const char* key, std::filesystem::path& out)
    {
        std::string value = out.string();
        text(key, value);
        out = value;
    }
    template <typename Number>
    void number(const char* key, Number& out, std::int64_t least,
                std::int64_t most)
    {
        if (const toml::node* node = find(key))
        {
            auto value = node->value_exact<std::int64_t>();
            if (!value || *value < least || *value > most)
            {
                refuse(*node, key,
                       fmt::format("has to be a number from {} to {}", least,
                                   most));
            }
            out = static_cast<Number>(*value);
        }
    }
    void time(const char* key, std::chrono::seconds& out)
    {
        std::int64_t value = out.count();
        number(key, value, 1, 7LL * 24 * 3600);
        out = std::chrono::seconds(value);
    }
    const toml::node* find(const char* key)
    {
        known_.insert(key);
        return table_.get(key);
    }
    void flag(const char* key, bool& out)
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
    /** An empty one when it is not there. */
    const toml::table& sub(const char* key)
    {
        static const toml::table empty;
        const toml::node* node = find(key);
        if (node == nullptr)
        {
            return empty;
        }
        if (!node->is_table())
        {
            refuse(*node, key, "has to be a table");
        }
        return *node->as_table();
    }
    /** Refuses keys that were not asked for. */
    void done() const
    {
        for (const auto& [key, node] : table_)
        {
            if (!known_.contains(std::string(key.str())))
            {
                refuse(node, std::string(key.str()), "is not known");
            }
        }
    }

  private:
    [[noreturn]] std::string refuse(const toml::node& node,
                                    const std::string& key,
                                    const std::string& why) const
    {
        throw Error(fmt::format("line {}: {}{} {}", node.source().begin.line,
                                name_, key, why));
    }

    const toml::table& table_;
    std::string name_;
    std::set<std::string> known_;
};

} // namespace airlock
