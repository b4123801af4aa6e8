#pragma once

#include "common/json.hpp"
#include "common/sha256.hpp"

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::trust
{

/** Platform configuration registers (PCRs) of the SHA-256 bank. There is no
 * other bank here: SHA-1 proves nothing any more. */
inline constexpr unsigned pcrCount = 24;

/** The PCRs that nobody can set back without a restart of the TPM. 16 and 23
 * can be reset by any software; 17 to 22 by late launch code. */
inline constexpr unsigned lastStaticPcr = 15;

/** What PCRs hold, or should hold. */
using PcrValues = std::map<unsigned, Digest>;

/** A set of PCRs. */
class PcrSelection
{
  public:
    PcrSelection() = default;
    PcrSelection(std::initializer_list<unsigned> numbers);
    /** The PCRs that have a value in there. */
    static PcrSelection of(const PcrValues& values);
    /** From "0,2,4,11". Refused naming `where`. */
    static PcrSelection parse(std::string_view text, std::string_view where);

    void add(unsigned number);
    bool contains(unsigned number) const
    {
        return number < pcrCount && ((mask_ >> number) & 1) != 0;
    }
    bool empty() const { return mask_ == 0; }
    std::vector<unsigned> list() const;
    std::string text() const;

    /** A TPML_PCR_SELECTION with one entry: SHA-256, three bytes. */
    Bytes marshal() const;

    /** Throws Refused when the set is empty or has a PCR that can be set back:
     * what is sealed to PCR 16 or 23, or capped there, can be had again. */
    void requireSealable(std::string_view where) const;

    bool operator==(const PcrSelection&) const = default;

  private:
    std::uint32_t mask_ = 0;
};

/** The value after TPM2_PCR_Extend. */
Digest extended(const Digest& pcr, ByteView digest);

/** The digest over the selected values that is in quotes and policies. Throws
 * Refused when one of them is missing. */
Digest compositeDigest(const PcrSelection& selection, const PcrValues& values);

/** "0: have 1234..., want 5678...; 4: ..." - what differs, "" when nothing. */
std::string differences(const PcrValues& have, const PcrValues& want);

/** {"0": "hex", ...} */
Json toJson(const PcrValues& values);
PcrValues pcrValuesFrom(const JsonField& field);

} // namespace airlock::trust
