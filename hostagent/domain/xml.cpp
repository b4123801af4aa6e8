#include "hostagent/domain/xml.hpp"

#include "common/error.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <utility>

namespace airlock::host::xml
{

namespace
{

constexpr std::string_view document = "domain XML";
constexpr std::string_view blanks = " \t\r\n";

/** Refuses what is nested too deep or has too many nodes. */
class Bounds : public pugi::xml_tree_walker
{
  public:
    bool for_each(pugi::xml_node& node) override
    {
        if (static_cast<std::size_t>(depth()) > maxDepth)
        {
            throw Refused(document, fmt::format("elements are nested deeper "
                                                "than {}",
                                                maxDepth));
        }
        nodes_ += 1 + static_cast<std::size_t>(std::distance(
                          node.attributes_begin(), node.attributes_end()));
        if (nodes_ > maxNodes)
        {
            throw Refused(document, fmt::format("has more than {} elements and "
                                                "attributes",
                                                maxNodes));
        }
        return true;
    }

  private:
    std::size_t nodes_ = 0;
};

std::string_view trim(std::string_view text)
{
    std::size_t first = text.find_first_not_of(blanks);
    if (first == std::string_view::npos)
    {
        return {};
    }
    return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

std::uint64_t unitBytes(const pugi::xml_node& node)
{
    constexpr std::array<std::pair<std::string_view, std::uint64_t>, 16> units =
        {{{"", 1ULL << 10},
          {"b", 1},
          {"bytes", 1},
          {"KB", 1000},
          {"k", 1ULL << 10},
          {"KiB", 1ULL << 10},
          {"MB", 1000000},
          {"M", 1ULL << 20},
          {"MiB", 1ULL << 20},
          {"GB", 1000000000},
          {"G", 1ULL << 30},
          {"GiB", 1ULL << 30},
          {"TB", 1000000000000},
          {"T", 1ULL << 40},
          {"TiB", 1ULL << 40},
          {"K", 1ULL << 10}}};
    std::string unit = attribute(node, "unit");
    for (const auto& [name, bytes] : units)
    {
        if (name == unit)
        {
            return bytes;
        }
    }
    refuse(node, "the unit " + printable(unit) + " is not known");
}

/** The namespace that a prefix stands for at this element. */
std::string_view namespaceOf(const pugi::xml_node& node)
{
    std::string_view name = node.name();
    std::size_t colon = name.find(':');
    std::string declaration =
        colon == std::string_view::npos
            ? "xmlns"
            : "xmlns:" + std::string(name.substr(0, colon));
    for (pugi::xml_node at = node; at; at = at.parent())
    {
        if (pugi::xml_attribute found = at.attribute(declaration.c_str()))
        {
            return found.value();
        }
    }
    return {};
}

} // namespace

pugi::xml_document parseDomainDocument(std::string_view text)
{
    if (text.size() > maxBytes)
    {
        throw Refused(document,
                      fmt::format("is longer than {} bytes", maxBytes));
    }
    if (text.find('\0') != std::string_view::npos)
    {
        throw Refused(document, "has a NUL byte in it");
    }
    pugi::xml_document parsed;
    pugi::xml_parse_result result = parsed.load_buffer(
        text.data(), text.size(), pugi::parse_default | pugi::parse_doctype,
        pugi::encoding_utf8);
    if (!result)
    {
        throw Refused(
            document,
            fmt::format("{} at byte {}", result.description(), result.offset));
    }
    Bounds bounds;
    parsed.traverse(bounds);
    for (const pugi::xml_node& node : parsed.children())
    {
        if (node.type() == pugi::node_doctype)
        {
            throw Refused(document, "has a document type; libvirt's has none");
        }
    }
    pugi::xml_node root = parsed.document_element();
    if (std::string_view(root.name()) != "domain" || root.next_sibling())
    {
        throw Refused(document, "is no <domain> element");
    }
    return parsed;
}

std::string format(const pugi::xml_node& node)
{
    std::ostringstream out;
    node.print(out, "  ",
               pugi::format_indent | pugi::format_attribute_single_quote |
                   pugi::format_no_declaration);
    // pugixml's " />" cannot be in a text, where '>' is escaped.
    std::string result = out.str();
    for (std::size_t at = 0;
         (at = result.find(" />\n", at)) != std::string::npos;)
    {
        result.erase(at, 1);
    }
    return result;
}

std::string path(const pugi::xml_node& node)
{
    std::string out;
    for (pugi::xml_node at = node; at.parent() && at.parent().parent();
         at = at.parent())
    {
        std::size_t index = 1;
        for (pugi::xml_node before = at.previous_sibling(at.name()); before;
             before = before.previous_sibling(at.name()))
        {
            index++;
        }
        std::string step = printable(at.name(), 40);
        step = step.substr(1, step.size() - 2);
        if (index > 1 || at.next_sibling(at.name()))
        {
            step += fmt::format("[{}]", index);
        }
        out = out.empty() ? step : step + "/" + out;
    }
    return out.empty() ? "domain" : out;
}

void refuse(const pugi::xml_node& node, std::string_view reason)
{
    throw Refused(path(node), reason);
}

std::string attribute(const pugi::xml_node& node, const char* name)
{
    return node.attribute(name).value();
}

std::string text(const pugi::xml_node& node)
{
    return std::string(trim(node.text().get()));
}

std::string childText(const pugi::xml_node& node, const char* name)
{
    return text(node.child(name));
}

bool isOneOf(std::string_view word, std::initializer_list<const char*> words)
{
    return std::find(words.begin(), words.end(), word) != words.end();
}

std::optional<std::uint64_t> number(std::string_view text, std::uint64_t max)
{
    int base = 10;
    if (text.starts_with("0x"))
    {
        base = 16;
        text.remove_prefix(2);
    }
    std::uint64_t value = 0;
    auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size() || value > max)
    {
        return std::nullopt;
    }
    return value;
}

std::uint64_t memoryBytes(const pugi::xml_node& node)
{
    constexpr std::uint64_t max = 1ULL << 50;
    std::uint64_t unit = unitBytes(node);
    std::optional<std::uint64_t> count = number(text(node), max / unit);
    if (!count)
    {
        refuse(node, printable(text(node)) + " is no size of memory");
    }
    return *count * unit;
}

std::string_view localName(const pugi::xml_node& node)
{
    std::string_view name = node.name();
    std::size_t colon = name.find(':');
    return colon == std::string_view::npos ? name : name.substr(colon + 1);
}

pugi::xml_node airlockMetadata(const pugi::xml_node& domain)
{
    for (const pugi::xml_node& node : domain.child("metadata").children())
    {
        if (localName(node) == "domain" &&
            namespaceOf(node) == airlockNamespace)
        {
            return node;
        }
    }
    return {};
}

pugi::xml_node airlockChild(const pugi::xml_node& metadata,
                            std::string_view name)
{
    for (const pugi::xml_node& node : metadata.children())
    {
        if (localName(node) == name && namespaceOf(node) == airlockNamespace)
        {
            return node;
        }
    }
    return {};
}

} // namespace airlock::host::xml
