#include "common/json.hpp"

#include <algorithm>

namespace airlock
{

namespace
{

/** Deepest nesting of brackets outside strings. Looking at it before parsing
 * keeps the tree, and its destruction, bounded. */
std::size_t nestingDepth(std::string_view text)
{
    std::size_t depth = 0;
    std::size_t deepest = 0;
    bool inString = false;
    for (std::size_t i = 0; i < text.size(); ++i)
    {
        char c = text[i];
        if (inString)
        {
            i += c == '\\' ? 1 : 0;
            inString = c != '"';
        }
        else if (c == '"')
        {
            inString = true;
        }
        else if (c == '[' || c == '{')
        {
            deepest = std::max(deepest, ++depth);
        }
        else if ((c == ']' || c == '}') && depth > 0)
        {
            --depth;
        }
    }
    return deepest;
}

} // namespace

Json parseJson(std::string_view text, std::string_view where,
               const JsonLimits& limits)
{
    if (text.size() > limits.bytes)
    {
        throw Refused(where, "JSON of " + std::to_string(text.size()) +
                                 " bytes, " + std::to_string(limits.bytes) +
                                 " are allowed");
    }
    if (nestingDepth(text) > limits.depth)
    {
        throw Refused(where, "JSON is nested deeper than " +
                                 std::to_string(limits.depth) + " levels");
    }
    Json out = Json::parse(text.begin(), text.end(), nullptr, false);
    if (out.is_discarded())
    {
        throw Refused(where, "is not valid JSON: " + printable(text));
    }
    return out;
}

std::string dumpJson(const Json& value)
{
    return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string printable(std::string_view text, std::size_t max)
{
    return "\"" + plainText(text, max) + "\"";
}

std::string plainText(std::string_view text, std::size_t max)
{
    std::string out;
    for (char c : text.substr(0, max))
    {
        out += c >= ' ' && c <= '~' ? c : '?';
    }
    return out + (text.size() > max ? "..." : "");
}

std::string JsonField::path() const
{
    return member_.empty() ? where_ : where_ + ": " + member_;
}

void JsonField::refuse(std::string_view reason) const
{
    throw Refused(path(), reason);
}

JsonField JsonField::at(std::string_view key) const
{
    std::optional<JsonField> field = find(key);
    if (!field)
    {
        refuse("member " + printable(key) + " is missing");
    }
    return *field;
}

std::optional<JsonField> JsonField::find(std::string_view key) const
{
    if (!value_->is_object())
    {
        refuse("is no object");
    }
    auto member = value_->find(key);
    if (member == value_->end() || member->is_null())
    {
        return std::nullopt;
    }
    std::string name(key);
    return JsonField(*member, where_,
                     member_.empty() ? name : member_ + "." + name);
}

void JsonField::onlyKeys(std::initializer_list<std::string_view> keys) const
{
    if (!value_->is_object())
    {
        refuse("is no object");
    }
    for (const auto& [key, unused] : value_->items())
    {
        if (std::find(keys.begin(), keys.end(), key) == keys.end())
        {
            refuse("unknown member " + printable(key));
        }
    }
}

std::size_t JsonField::arraySize(std::size_t max) const
{
    if (!value_->is_array())
    {
        refuse("is no array");
    }
    if (value_->size() > max)
    {
        refuse("has " + std::to_string(value_->size()) + " elements, " +
               std::to_string(max) + " are allowed");
    }
    return value_->size();
}

JsonField JsonField::element(std::size_t index) const
{
    if (index >= arraySize())
    {
        refuse("has no element " + std::to_string(index));
    }
    return JsonField((*value_)[index], where_,
                     member_ + "[" + std::to_string(index) + "]");
}

std::string JsonField::string(std::size_t maxLength) const
{
    const auto* text = value_->get_ptr<const Json::string_t*>();
    if (text == nullptr)
    {
        refuse("is no string");
    }
    if (text->size() > maxLength)
    {
        refuse("is longer than " + std::to_string(maxLength) + " bytes");
    }
    return *text;
}

Bytes JsonField::hex(std::size_t maxBytes) const
{
    auto bytes = fromHex(string(2 * maxBytes));
    if (!bytes)
    {
        refuse("is not hexadecimal");
    }
    return *bytes;
}

Digest JsonField::digest() const
{
    auto digest = digestFromHex(string());
    if (!digest)
    {
        refuse("is not 64 hexadecimal digits");
    }
    return *digest;
}

bool JsonField::boolean() const
{
    const auto* value = value_->get_ptr<const Json::boolean_t*>();
    if (value == nullptr)
    {
        refuse("is neither true nor false");
    }
    return *value;
}

std::uint64_t JsonField::u64(std::uint64_t max) const
{
    if (!value_->is_number_integer() ||
        (!value_->is_number_unsigned() && value_->get<std::int64_t>() < 0))
    {
        refuse("is no non-negative whole number");
    }
    auto value = value_->get<std::uint64_t>();
    if (value > max)
    {
        refuse("is " + std::to_string(value) + ", at most " +
               std::to_string(max) + " is allowed");
    }
    return value;
}

std::int64_t JsonField::i64() const
{
    if (!value_->is_number_integer() ||
        (value_->is_number_unsigned() && value_->get<std::int64_t>() < 0))
    {
        refuse("is no whole number of 64 bits");
    }
    return value_->get<std::int64_t>();
}

double JsonField::number() const
{
    if (!value_->is_number())
    {
        refuse("is no number");
    }
    return value_->get<double>();
}

} // namespace airlock
