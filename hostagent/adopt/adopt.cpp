#include "hostagent/adopt/adopt.hpp"

#include "common/json.hpp"
#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <fmt/format.h>

namespace airlock::host
{

namespace
{

pugi::xml_node ensureMetadata(pugi::xml_node domain)
{
    if (pugi::xml_node found = xml::airlockMetadata(domain))
    {
        return found;
    }
    pugi::xml_node metadata = adoption::ensureChild(
        domain, "metadata", {"description", "title", "uuid", "name"});
    pugi::xml_node node = metadata.append_child("airlock:domain");
    adoption::setAttribute(node, "xmlns:airlock", xml::airlockNamespace);
    return node;
}

/** A child of ours, under the prefix that our element has. */
pugi::xml_node ensureOwn(pugi::xml_node metadata, std::string_view name)
{
    if (pugi::xml_node found = xml::airlockChild(metadata, name))
    {
        return found;
    }
    std::string_view prefix = metadata.name();
    prefix = prefix.substr(0, prefix.find(':') + 1);
    std::string full = std::string(prefix) + std::string(name);
    return metadata.append_child(full.c_str());
}

void writeSettings(pugi::xml_node metadata, const AdoptOptions& options)
{
    if (options.booted)
    {
        checkBootedPolicy(*options.booted);
        adoption::setAttribute(ensureOwn(metadata, "booted"), "policy",
                               *options.booted);
    }
    if (options.tenant)
    {
        adoption::setAttribute(ensureOwn(metadata, "tenant"), "name",
                               *options.tenant);
    }
    if (options.limit)
    {
        adoption::setAttribute(ensureOwn(metadata, "limit"), "seconds",
                               std::to_string(options.limit->count()));
    }
}

void keepOriginal(pugi::xml_node metadata, std::string_view original)
{
    if (!xml::airlockChild(metadata, "original"))
    {
        ensureOwn(metadata, "original")
            .text()
            .set(std::string(original).c_str());
    }
}

/** The result has to be what the host agent accepts, for each reason that no
 * rule above knew. */
void checkResult(AdoptResult& result)
{
    try
    {
        parseDomain(result.xml);
    }
    catch (const Refused& e)
    {
        result.refusals.push_back(
            {e.where(), e.reason(), "change it in the domain's XML"});
    }
}

} // namespace

AdoptResult adopt(std::string_view xml, const AdoptOptions& options)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    pugi::xml_node domain = document.document_element();
    std::string before = xml::format(domain);
    AdoptResult result;
    adoption::Rewrite rewrite(domain, options, result);
    adoption::adoptMachine(rewrite);
    adoption::adoptDevices(rewrite);
    pugi::xml_node metadata = ensureMetadata(domain);
    writeSettings(metadata, options);
    keepOriginal(metadata, options.original ? *options.original : xml);
    if (result.ok())
    {
        result.xml = xml::format(domain);
        result.changed = result.xml != before;
        checkResult(result);
    }
    if (!result.ok())
    {
        result.xml.clear();
    }
    return result;
}

std::string revert(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    pugi::xml_node domain = document.document_element();
    pugi::xml_node kept =
        xml::airlockChild(xml::airlockMetadata(domain), "original");
    if (!kept)
    {
        throw Refused("metadata", "holds no XML from before airlockctl adopt");
    }
    std::string original = kept.text().get();
    pugi::xml_document then = xml::parseDomainDocument(original);
    pugi::xml_node old = then.document_element();
    if (xml::childText(old, "uuid") != xml::childText(domain, "uuid"))
    {
        throw Refused("metadata",
                      "holds the XML of another domain, with UUID " +
                          printable(xml::childText(old, "uuid")));
    }
    if (adoption::setText(old.child("name"), xml::childText(domain, "name")))
    {
        return xml::format(old);
    }
    return original;
}

std::string readableXml(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    pugi::xml_node domain = document.document_element();
    if (pugi::xml_node kept =
            xml::airlockChild(xml::airlockMetadata(domain), "original"))
    {
        kept.text().set("(the XML from before, for --revert)");
    }
    return xml::format(domain);
}

} // namespace airlock::host
