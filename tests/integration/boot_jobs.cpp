#include "tests/integration/boot_jobs.hpp"

#include <fcntl.h>

#include <cstdio>
#include <thread>

namespace airlock::test
{

namespace
{

using Clock = std::chrono::steady_clock;

} // namespace

GuestJob::GuestJob(const GuestFiles& files, std::chrono::seconds timeout)
    : files_(files)
{
    request_.job = handover::JobTicket::issue(files.spec().uuid, 1);
    request_.guest = files.spec();
    request_.guest.disks.clear();
    for (const vm::Disk& disk : files.spec().disks)
    {
        request_.disks.push_back(
            {std::filesystem::file_size(disk.image), disk.readOnly});
    }
    request_.timeout = timeout;
    request_.tenant = "blue";
}

std::string GuestJob::upload(boot::Client& client) const
{
    std::string id = client.createJob(request_).id;
    UniqueFd fd = openFile(disk().image, O_RDONLY);
    handover::FileImage image(fd.get(), request_.disks.at(0).bytes);
    const Clock::time_point start = Clock::now();
    const handover::MemoryFigures sent = client.uploadDisk(id, 0, image);
    const std::chrono::duration<double> time = Clock::now() - start;
    const double mib = static_cast<double>(sent.bytes()) / (1U << 20);
    std::printf("upload: %.0f MiB in %.2f s, %.0f MiB/s\n", mib, time.count(),
                mib / time.count());
    return id;
}

handover::Bundle GuestJob::fetchBundle(boot::Client& client,
                                       const std::string& id) const
{
    return client.fetchBundle(id, [this](const handover::Manifest& manifest) {
        vm::requireAnswer(manifest, request_.job, files_.spec());
    });
}

std::uint64_t GuestJob::applyDelta(boot::Client& client,
                                   const boot::JobStatus& status) const
{
    const std::uint64_t bytes = request_.disks.at(0).bytes;
    UniqueFd fd = openFile(disk().image, O_RDWR);
    handover::ImageFile file(fd.get(), bytes);
    handover::ImageStreamReader reader(
        bytes,
        [&file](const handover::ImageChunk& chunk) { file.write(chunk); });
    client.fetchDisk(status.id, 0, status.result.value().disks.at(0).value(),
                     [&reader](ByteView data) { reader.feed(data); });
    reader.finish();
    std::printf("delta: %llu pages\n",
                static_cast<unsigned long long>(reader.pages()));
    return reader.pages();
}

std::string uploadSmall(boot::Client& client, const boot::JobRequest& request,
                        std::string_view text, std::uint64_t at)
{
    const std::uint64_t bytes = request.disks.at(0).bytes;
    std::string id = client.createJob(request).id;
    UniqueFd disk = createMemfd("disk", bytes);
    writeAllAt(disk.get(), asBytes(text), at);
    handover::FileImage image(disk.get(), bytes);
    client.uploadDisk(id, 0, image);
    return id;
}

boot::JobStatus waitFinished(boot::Client& client, const std::string& id,
                             Milliseconds timeout)
{
    for (Deadline deadline(timeout);;)
    {
        boot::JobStatus status = client.status(id);
        if ((status.state != boot::JobState::queued &&
             status.state != boot::JobState::booting) ||
            deadline.passed())
        {
            return status;
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
}

} // namespace airlock::test
