#pragma once

#include "common/error.hpp"

#include <memory>
#include <string>
#include <vector>

struct _virConnect;
struct _virDomain;

namespace airlock::ctl
{

/** A connection to libvirt for one command. All throw Error with libvirt's own
 * words. */
class Libvirt
{
  public:
    explicit Libvirt(const std::string& uri);

    /** "9.0.0" */
    std::string version() const;
    /** The XML that the next start uses, with or without passwords. */
    std::string definition(const std::string& nameOrUuid, bool secrets) const;
    std::vector<std::string> definitions() const;
    /** Whether it is started. */
    bool active(const std::string& nameOrUuid) const;
    void define(const std::string& xml);

  private:
    struct Close
    {
        void operator()(_virConnect* connection) const;
        void operator()(_virDomain* domain) const;
    };
    using DomainPtr = std::unique_ptr<_virDomain, Close>;

    DomainPtr find(const std::string& nameOrUuid) const;

    std::unique_ptr<_virConnect, Close> connection_;
};

} // namespace airlock::ctl
