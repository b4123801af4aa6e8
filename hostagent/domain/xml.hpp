#pragma once

#include <pugixml.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

/** Domain XML as libvirt writes it, read with care: its author may be anyone
 * who is allowed to define a domain. Only for .cpp files: pugixml stays out of
 * our other headers. */
namespace airlock::host::xml
{

/** Namespace of what Airlock keeps in a domain's <metadata>. */
inline constexpr std::string_view airlockNamespace = "urn:airlock:domain:1";

/** As long as libvirt's own protocol lets a text be. */
inline constexpr std::size_t maxBytes = 4U << 20;
inline constexpr std::size_t maxDepth = 32;
inline constexpr std::size_t maxNodes = 50000;

/** Parses a domain's XML: one <domain> element, no document type (so no
 * entities but XML's own five), bounded in size, depth and nodes. Comments
 * and processing instructions are left out. Throws Refused naming "domain
 * XML". */
pugi::xml_document parseDomainDocument(std::string_view text);

/** Indented by two spaces as libvirt does it, attributes in single quotes. */
std::string format(const pugi::xml_node& node);

/** Where an element is: "devices/disk[2]/driver". */
std::string path(const pugi::xml_node& node);

/** Throws Refused naming the element. */
[[noreturn]] void refuse(const pugi::xml_node& node, std::string_view reason);

/** Value of an attribute, empty when it is not there. */
std::string attribute(const pugi::xml_node& node, const char* name);
/** Text of an element without white space around it. */
std::string text(const pugi::xml_node& node);
std::string childText(const pugi::xml_node& node, const char* name);

bool isOneOf(std::string_view word, std::initializer_list<const char*> words);

/** A decimal or 0x number; nothing when it is none or greater than max. */
std::optional<std::uint64_t> number(std::string_view text, std::uint64_t max);

/** Bytes of a <memory unit='...'>: KiB without a unit. Throws Refused. */
std::uint64_t memoryBytes(const pugi::xml_node& node);

/** Airlock's element in <metadata>, under whatever prefix; null when none. */
pugi::xml_node airlockMetadata(const pugi::xml_node& domain);
/** A child of it, by its name without prefix; null when none. */
pugi::xml_node airlockChild(const pugi::xml_node& metadata,
                            std::string_view name);
/** Name without prefix. */
std::string_view localName(const pugi::xml_node& node);

} // namespace airlock::host::xml
