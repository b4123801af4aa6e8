#pragma once

#include "bootsrv/job_store.hpp"
#include "common/http_server.hpp"

#include <memory>
#include <string>

namespace airlock::boot
{

/** The calls of docs/protocol-boot.md over a store. The store outlives the
 * handler. */
http::Handler makeHandler(JobStore& store, unsigned parallelBoots,
                          const std::string& version);

} // namespace airlock::boot
