#include "hostagent/adopt/rewrite.hpp"

#include "common/json.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::host::adoption
{

namespace
{

/** "devices/input[2]" in two parts; the second is empty without an index. */
std::pair<std::string, std::string> splitIndex(const std::string& where)
{
    std::size_t bracket = where.rfind('[');
    if (bracket == std::string::npos || where.back() != ']')
    {
        return {where, ""};
    }
    return {where.substr(0, bracket),
            where.substr(bracket + 1, where.size() - bracket - 2)};
}

} // namespace

Rewrite::Rewrite(pugi::xml_node domain, const AdoptOptions& options,
                 AdoptResult& result)
    : domain_(domain), options_(options), result_(result)
{
    for (const pugi::xml_node& device : domain.child("devices").children())
    {
        paths_[device.hash_value()] = xml::path(device);
    }
}

std::string Rewrite::pathBefore(const pugi::xml_node& node) const
{
    if (auto found = paths_.find(node.hash_value()); found != paths_.end())
    {
        return found->second;
    }
    auto parent = paths_.find(node.parent().hash_value());
    return parent == paths_.end() ? xml::path(node)
                                  : parent->second + "/" + node.name();
}

void Rewrite::note(const pugi::xml_node& where, std::string text)
{
    note(pathBefore(where), std::move(text));
}

void Rewrite::note(std::string where, std::string text)
{
    auto [element, index] = splitIndex(where);
    if (!result_.notes.empty() && !index.empty())
    {
        AdoptNote& last = result_.notes.back();
        auto [lastElement, lastIndex] = splitIndex(last.where);
        if (last.text == text && lastElement == element && !lastIndex.empty())
        {
            last.where = fmt::format("{}[{},{}]", element, lastIndex, index);
            return;
        }
    }
    result_.notes.push_back({std::move(where), std::move(text)});
}

void Rewrite::refuse(const pugi::xml_node& where, std::string reason,
                     std::string advice)
{
    result_.refusals.push_back(
        {pathBefore(where), std::move(reason), std::move(advice)});
}

void Rewrite::drop(pugi::xml_node node, std::string_view why)
{
    if (!why.empty())
    {
        note(node, fmt::format("dropped: {}", why));
    }
    paths_.erase(node.hash_value());
    node.parent().remove_child(node);
}

bool Rewrite::dropAttribute(pugi::xml_node node, std::string_view name)
{
    return node.remove_attribute(std::string(name).c_str());
}

void applyRules(Rewrite& rewrite, pugi::xml_node parent,
                const std::vector<Rule>& rules,
                std::initializer_list<const char*> handled)
{
    std::vector<pugi::xml_node> dropped;
    for (const pugi::xml_node& node : parent.children())
    {
        std::string_view name = node.name();
        auto rule = std::find_if(rules.begin(), rules.end(),
                                 [&](const Rule& r) { return r.name == name; });
        if (rule == rules.end())
        {
            if (!xml::isOneOf(name, handled))
            {
                rewrite.refuse(node, "Airlock does not know this element",
                               "remove it from the domain");
            }
        }
        else if (rule->fate == Fate::refuse)
        {
            rewrite.refuse(node, std::string(rule->text),
                           std::string(rule->advice));
        }
        else if (rule->fate == Fate::drop)
        {
            if (!rule->text.empty())
            {
                rewrite.note(node, fmt::format("dropped: {}", rule->text));
            }
            dropped.push_back(node);
        }
    }
    for (pugi::xml_node node : dropped)
    {
        rewrite.drop(node, "");
    }
}

std::vector<pugi::xml_node> childrenOf(pugi::xml_node parent, const char* name)
{
    auto range = parent.children(name);
    return {range.begin(), range.end()};
}

pugi::xml_node ensureChild(pugi::xml_node parent, const char* name,
                           std::initializer_list<const char*> after)
{
    if (pugi::xml_node found = parent.child(name))
    {
        return found;
    }
    for (const char* before : after)
    {
        pugi::xml_node last;
        for (const pugi::xml_node& node : parent.children(before))
        {
            last = node;
        }
        if (last)
        {
            return parent.insert_child_after(name, last);
        }
    }
    return parent.append_child(name);
}

bool setAttribute(pugi::xml_node node, const char* name, std::string_view value)
{
    if (node.attribute(name) && node.attribute(name).value() == value)
    {
        return false;
    }
    pugi::xml_attribute attribute = node.attribute(name);
    if (!attribute)
    {
        attribute = node.append_attribute(name);
    }
    attribute.set_value(std::string(value).c_str());
    return true;
}

bool setText(pugi::xml_node node, std::string_view value)
{
    if (xml::text(node) == value)
    {
        return false;
    }
    node.text().set(std::string(value).c_str());
    return true;
}

void setSlot(pugi::xml_node device, unsigned slot)
{
    pugi::xml_node address = device.child("address");
    auto zero = [&](const char* part) {
        std::string value = xml::attribute(address, part);
        return value.empty() || xml::number(value, 0) == 0U;
    };
    bool right = xml::attribute(address, "type") == "pci" && zero("domain") &&
                 zero("bus") && zero("function") &&
                 xml::number(xml::attribute(address, "slot"), 31) == slot;
    if (right && !address.attribute("multifunction"))
    {
        return;
    }
    device.remove_child("address");
    address = device.append_child("address");
    setAttribute(address, "type", "pci");
    setAttribute(address, "domain", "0x0000");
    setAttribute(address, "bus", "0x00");
    setAttribute(address, "slot", fmt::format("{:#04x}", slot));
    setAttribute(address, "function", "0x0");
}

} // namespace airlock::host::adoption
