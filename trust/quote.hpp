#pragma once

#include "trust/wire.hpp"

#include <optional>
#include <string>

namespace airlock::trust
{

/** What makes a quote answer one question of one peer over one connection. */
struct QuoteContext
{
    std::string role;  ///< who is to quote: "boot-host"; against reflection
    Bytes nonce;       ///< the verifier's, 16 to 64 random bytes
    Bytes channel;     ///< of tls::exportKey(); empty only without TLS
    std::string about; ///< what is asked for, for example a switch port
};

/** The extra data of the quote: 32 bytes, a hash of all of the context. */
Digest qualifyingData(const QuoteContext& context);

/** What an attesting machine sends. */
struct Quote
{
    Bytes attest;    ///< TPMS_ATTEST
    Bytes signature; ///< TPMT_SIGNATURE
    PcrValues pcrs;  ///< what it says it has; only the digest is signed

    Json toJson() const;
    static Quote parse(const JsonField& field);
    static Quote parse(std::string_view text, std::string_view where);
};

/** A quote without the values, for where room is scarce: both parts, each with
 * its length in front (two bytes). */
Bytes pack(const Quote& quote);
/** Refused naming `where`; nothing may be left over. */
Quote unpackQuote(ByteView data, std::string_view where);

/** An attestation key, with its attributes checked.
 *
 * Only a key that signs nothing but what the TPM itself made, that cannot leave
 * it and was made in it, says anything about the machine.
 */
class AttestationKey
{
  public:
    /** From a TPMT_PUBLIC. Refused naming what is missing: restricted, sign,
     * fixedtpm, fixedparent, sensitivedataorigin; not decrypt; a fixed scheme
     * with SHA-256. */
    static AttestationKey parse(ByteView publicArea, std::string_view where);

    const Bytes& publicArea() const { return publicArea_; }
    /** Worked out from the public area, never taken from the peer. */
    const Bytes& name() const { return name_; }
    std::uint16_t scheme() const { return scheme_; }
    Key key() const;
    std::string pem() const { return publicKeyPem(key()); }

  private:
    AttestationKey() = default;

    Bytes publicArea_;
    Bytes name_;
    std::uint16_t scheme_ = 0;
};

/** What a verifier wants of a quote. */
struct QuoteExpectation
{
    Digest extraData{};
    PcrValues pcrs; ///< their numbers are the selection, all of it
    /** Of the last good quote of the same key. The reset counter must not fall,
     * nor, within one boot, restart counter and clock. */
    std::optional<wire::ClockInfo> previous;
    /** The TPM must not have been reset since `previous`: a lease ends with
     * the boot that it was given to. */
    bool sameBoot = false;
    /** A TPM that lost power without notice does not vouch for its clock for a
     * while. Without this, such a quote holds and its clock is not compared;
     * the counters of resets are right at all times. */
    bool safeClock = true;
};

/** What a quote said that held. */
struct QuoteVerdict
{
    wire::ClockInfo clock;
    std::uint64_t firmwareVersion = 0;
};

/** Checks everything in docs/trust.md; Refused names the first thing that does
 * not hold, with what was expected. Needs no TPM. */
QuoteVerdict verifyQuote(const AttestationKey& key, const Quote& quote,
                         const QuoteExpectation& expected);

} // namespace airlock::trust
