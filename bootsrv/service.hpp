#pragma once

#include "bootsrv/jobs.hpp"
#include "common/http_server.hpp"

#include <memory>
#include <string>

namespace airlock::boot
{

/** What the health of a server has beside its jobs. */
struct ServiceFacts
{
    unsigned parallelBoots = 1;
    std::string version;
    std::optional<QemuFacts> qemu;
};

/** The calls of docs/protocol-boot.md over some jobs, which outlive the
 * handler. */
http::Handler makeHandler(Jobs& store, ServiceFacts facts);

} // namespace airlock::boot
