#pragma once

#include "common/json.hpp"

#include <memory>
#include <string>

struct nft_ctx;

namespace airlock::sw
{

/** nftables of this network namespace, in the JSON of libnftables-json(5). Not
 * shared between threads. */
class Nft
{
  public:
    Nft();

    /** Runs commands as one transaction: all of them take effect or none.
     * Throws Error naming `doing`. What nftables says goes into the text with
     * Ethernet addresses left out, for they may be secret. */
    void run(const Json& commands, const std::string& doing);

    /** What a list command answers: the objects of "nftables". */
    Json list(const Json& command, const std::string& doing);

  private:
    struct Free
    {
        void operator()(nft_ctx* context) const;
    };
    std::string execute(const Json& commands, const std::string& doing);

    std::unique_ptr<nft_ctx, Free> context_;
};

/** The text with everything that looks like an Ethernet address replaced. */
std::string withoutAddresses(const std::string& text);

} // namespace airlock::sw
