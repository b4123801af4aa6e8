#include "tools/airlockctl/libvirt_domain.hpp"

#include <fmt/format.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>

namespace airlock::ctl
{

namespace
{

/** libvirt would write its errors to stderr by itself. */
void silent(void* /*data*/, virErrorPtr /*error*/) {}

[[noreturn]] void fail(const std::string& what)
{
    const char* words = virGetLastErrorMessage();
    throw Error(what + ": " + (words != nullptr ? words : "no reason given"));
}

std::string definitionOf(virDomainPtr domain, bool secrets)
{
    unsigned flags = VIR_DOMAIN_XML_INACTIVE;
    if (secrets)
    {
        flags |= VIR_DOMAIN_XML_SECURE;
    }
    char* text = virDomainGetXMLDesc(domain, flags);
    if (text == nullptr)
    {
        fail("libvirt does not give the domain's XML");
    }
    std::string out = text;
    std::free(text); // NOLINT: libvirt's malloc
    return out;
}

} // namespace

void Libvirt::Close::operator()(_virConnect* connection) const
{
    virConnectClose(connection);
}

void Libvirt::Close::operator()(_virDomain* domain) const
{
    virDomainFree(domain);
}

Libvirt::Libvirt(const std::string& uri)
{
    virSetErrorFunc(nullptr, silent);
    connection_.reset(virConnectOpen(uri.c_str()));
    if (!connection_)
    {
        fail("libvirt cannot be reached at " + uri);
    }
}

std::string Libvirt::version() const
{
    unsigned long number = 0; // NOLINT: libvirt's type
    if (virConnectGetLibVersion(connection_.get(), &number) != 0)
    {
        fail("libvirt does not tell its version");
    }
    return fmt::format("{}.{}.{}", number / 1000000, number / 1000 % 1000,
                       number % 1000);
}

Libvirt::DomainPtr Libvirt::find(const std::string& nameOrUuid) const
{
    DomainPtr domain(
        virDomainLookupByUUIDString(connection_.get(), nameOrUuid.c_str()));
    if (!domain)
    {
        domain.reset(
            virDomainLookupByName(connection_.get(), nameOrUuid.c_str()));
    }
    if (!domain)
    {
        fail("libvirt has no such domain");
    }
    return domain;
}

std::string Libvirt::definition(const std::string& nameOrUuid,
                                bool secrets) const
{
    return definitionOf(find(nameOrUuid).get(), secrets);
}

std::vector<std::string> Libvirt::definitions() const
{
    virDomainPtr* domains = nullptr;
    int count = virConnectListAllDomains(connection_.get(), &domains,
                                         VIR_CONNECT_LIST_DOMAINS_PERSISTENT);
    if (count < 0)
    {
        fail("libvirt does not list its domains");
    }
    std::vector<DomainPtr> owned;
    for (int i = 0; i < count; i++)
    {
        owned.emplace_back(domains[i]);
    }
    std::free(domains); // NOLINT: libvirt's malloc
    std::vector<std::string> out;
    for (const DomainPtr& domain : owned)
    {
        out.push_back(definitionOf(domain.get(), false));
    }
    return out;
}

bool Libvirt::active(const std::string& nameOrUuid) const
{
    return virDomainIsActive(find(nameOrUuid).get()) == 1;
}

void Libvirt::define(const std::string& xml)
{
    DomainPtr domain(virDomainDefineXMLFlags(connection_.get(), xml.c_str(),
                                             VIR_DOMAIN_DEFINE_VALIDATE));
    if (!domain)
    {
        fail("libvirt does not accept the new XML");
    }
}

} // namespace airlock::ctl
