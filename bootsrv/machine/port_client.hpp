#pragma once

#include "bootsrv/machine/kept.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"
#include "common/quarantine.hpp"
#include "common/secret.hpp"

#include <functional>
#include <optional>

namespace airlock::machine
{

/** Quarantine frames out of the boot host's interface, and back. */
class QuarantineSocket
{
  public:
    QuarantineSocket(int link, std::uint16_t etherType);

    void send(const quarantine::Frame& frame);
    /** A frame to this address; those that are none are left out. Nothing when
     * none has come by then. */
    std::optional<quarantine::Frame> receive(const MacAddress& to,
                                             const Deadline& deadline);

  private:
    UniqueFd fd_;
    std::uint16_t etherType_;
};

/** Makes a proof of a statement: a TPM's quote, see quote_prover.hpp. */
using MakeProof = std::function<Bytes(const Digest& statement)>;

/** The boot host's end of docs/protocol-switch.md at the port itself: shows in
 * one epoch that it is clean. */
class PortClient
{
  public:
    /** For the interface with this index, which has `address()` already. */
    PortClient(int link, const Site::Switch& site, const Secret& root,
               std::uint64_t epoch, MakeProof prove);

    /** The address that the interface has to have in an epoch. */
    static MacAddress addressFor(const Site::Switch& site, const Secret& root,
                                 std::uint64_t epoch);
    const MacAddress& address() const { return address_; }

    enum class Said
    {
        nothing, ///< no answer, or a method without answers
        open,
        refused,
    };
    /** Shows it once, to open or to renew the lease: a hello, or question,
     * proof and verdict. */
    Said show();

  private:
    Said quote();

    Site::Switch site_;
    MacAddress address_;
    MacAddress gate_; ///< mac96: the switch's address of the epoch
    MakeProof prove_;
    QuarantineSocket socket_;
};

} // namespace airlock::machine
