#pragma once

#include "bootsrv/job_store.hpp"
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

/** The calls of docs/protocol-boot.md over a store. The store outlives the
 * handler. */
http::Handler makeHandler(JobStore& store, ServiceFacts facts);

} // namespace airlock::boot
