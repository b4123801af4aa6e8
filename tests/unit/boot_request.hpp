#pragma once

#include "bootsrv/job.hpp"
#include "common/file.hpp"
#include "devmodel/handover/image_stream.hpp"

namespace airlock::test
{

/** A small guest's request, with a fresh nonce. */
inline boot::JobRequest smallRequest(std::uint64_t diskBytes = 1U << 20,
                                     const std::string& tenant = "blue")
{
    boot::JobRequest out;
    out.job =
        handover::JobTicket::issue("9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1);
    out.guest.name = "test";
    out.guest.uuid = out.job.vm;
    out.guest.vcpus = 1;
    out.guest.memory = 64U << 20;
    out.disks = {{diskBytes, false}};
    out.policy = "after:1";
    out.timeout = std::chrono::seconds(120);
    out.tenant = tenant;
    return out;
}

/** An image with one page of data, as a stream. */
inline Bytes imageStream(std::uint64_t bytes, std::uint64_t page,
                         std::uint8_t fill)
{
    UniqueFd fd = createMemfd("image", bytes);
    writeAllAt(fd.get(), Bytes(4096, fill), page * 4096);
    handover::FileImage image(fd.get(), bytes);
    Bytes out;
    handover::writeImageStream(image, [&out](ByteView data) {
        out.insert(out.end(), data.begin(), data.end());
    });
    return out;
}

} // namespace airlock::test
