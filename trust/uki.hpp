#pragma once

#include "trust/event_log.hpp"

#include <map>
#include <string>
#include <vector>

namespace airlock::trust
{

/** A Unified Kernel Image, as firmware, stub and kernel measure it. */
class Uki
{
  public:
    static constexpr std::size_t maxSize = 1U << 30;

    /** Keeps copies of the sections only. Refused when it is no PE image, when
     * sections overlap or lie outside, or when it has what this does not
     * predict: profiles, device trees or firmware chosen by hardware. */
    static Uki parse(ByteView data, const std::string& where);

    /** The Authenticode digest: what firmware extends PCR 4 with, and what a
     * Secure Boot signature is over. */
    const Digest& authenticode() const { return authenticode_; }

    /** PCR 11 after systemd's stub measured the sections (before any phase of
     * systemd-pcrphase, which our images do not run). */
    Digest pcr11() const;

    /** What may turn up in a log for this image, by what it is:
     * "image", "kernel", ".initrd" and so on. */
    std::map<std::string, Digest> digests() const;

    /** The contents of a section; nothing when it is not there. */
    Bytes section(const std::string& name) const;
    bool has(const std::string& name) const { return sections_.contains(name); }

  private:
    Digest authenticode_{};
    std::map<std::string, Bytes> sections_;
    bool olderStub_ = false; ///< measures fewer sections
};

/** The PCR values of a machine whose log was taken with `before`, after an
 * update to `after`: the digests of one image are replaced by those of the
 * other, all else stays.
 *
 * Refused when the log does not have the image in PCR 4 (it was taken with
 * another one), or PCR 11 of the log is not what its sections give.
 */
PcrValues predict(const EventLog& log, const Uki& before, const Uki& after);

} // namespace airlock::trust
