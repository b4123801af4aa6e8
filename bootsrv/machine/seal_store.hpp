#pragma once

#include "bootsrv/machine/enrolment_request.hpp"
#include "bootsrv/machine/rotation_request.hpp"
#include "trust/enroll.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::machine
{

/** What is public of a boot host's sealing: it is on a raw partition that dirty
 * mode can read and write, so everything in it is checked by the TPM when it is
 * used, or else is only shown to people. */
struct SealRecord
{
    std::vector<trust::SignedPolicy> policies;
    std::optional<trust::SealedBlob> blob; ///< the secrets
    /** Waits until the TPM has noted it. */
    std::optional<trust::SealedBlob> next;
    std::optional<trust::SealedBlob> authorizations;
    std::optional<trust::Machine> machine;
    /** The next boot into clean mode is to lock out older images. */
    bool retireOld = false;
    Bytes log; ///< of the last boot into clean mode; may be empty
    /** enrolmentTarget() at that boot: what a request is signed for. */
    std::optional<Digest> target;
    std::optional<EnrolmentRequest> request;
    std::optional<RotationRequest> rotation;

    Json toJson() const;
    static SealRecord parse(const JsonField& field);
};

/** Two slots, the newer one that is whole counts; so what a power cut leaves is
 * the old record or the new one. */
class SealStore
{
  public:
    static constexpr std::size_t slotSize = 512U << 10;
    static constexpr std::uint64_t size = 2 * slotSize;

    /** A partition, or a place in the image of a disk. */
    explicit SealStore(std::filesystem::path device, std::uint64_t offset = 0)
        : device_(std::move(device)), offset_(offset)
    {}

    /** Empty at first, and when both slots are damaged. */
    SealRecord read() const;
    /** On return it is on the disk. */
    void write(const SealRecord& record) const;
    /** As write(), and nothing is left of the record before. */
    void overwrite(const SealRecord& record) const;

  private:
    std::filesystem::path device_;
    std::uint64_t offset_;
};

} // namespace airlock::machine
