#pragma once

#include "bootsrv/job.hpp"
#include "common/http_client.hpp"
#include "devmodel/handover/bundle.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <memory>
#include <string>
#include <vector>

namespace airlock::boot
{

/** Told how many bytes have gone over the wire so far. */
using OnBytes = std::function<void(std::uint64_t)>;

using CheckManifest = std::function<void(const handover::Manifest&)>;

/** A host agent's end of the boot protocol: one connection to one boot server.
 *
 * Every call can be repeated after an exception, see docs/protocol-boot.md.
 * Throws what http::Client throws; http::Problem has the code. What the server
 * sends is checked for its form and bounded, never for its meaning.
 */
class Client
{
  public:
    Client(http::Endpoint endpoint, std::shared_ptr<const tls::Context> context,
           const http::ClientLimits& limits = {});

    Health health();

    /** Creates the job, or finds the one with this nonce. */
    JobStatus createJob(const JobRequest& request);
    /** What was sent. */
    handover::MemoryFigures uploadDisk(const std::string& id, std::size_t disk,
                                       handover::ImageSource& source,
                                       const OnBytes& onBytes = {});
    JobStatus seal(const std::string& id);
    JobStatus status(const std::string& id);
    std::vector<JobStatus> jobs();
    /** Ends the job wherever it is and deletes its files. A job that is not
     * known to the server is no error. */
    void remove(const std::string& id);

    handover::Manifest fetchManifest(const std::string& id);
    Bytes fetchState(const std::string& id);
    /** For a guest with so many bytes of memory. */
    handover::MemoryDigest fetchDigests(const std::string& id,
                                        std::uint64_t memoryBytes);
    /** Writes guest memory to an empty file of this size. Whether it is the
     * right one shows when the bundle is used. */
    void fetchMemory(const std::string& id, int fd, std::uint64_t memoryBytes,
                     const OnBytes& onBytes = {});
    /** Manifest, state, digests and memory, as a bundle in memory. `check` gets
     * the manifest before anything else is fetched or allocated; it throws
     * when that is not of the job and the machine that were asked for. */
    handover::Bundle fetchBundle(const std::string& id,
                                 const CheckManifest& check,
                                 const OnBytes& onBytes = {});
    /** The delta of a disk as an image stream, byte for byte. Refused when its
     * size or digest is not what the status said. */
    void fetchDisk(const std::string& id, std::size_t disk,
                   const DeltaFile& expected, const http::BodySink& sink);

    /** Who the server was in the last call that reached it. */
    std::optional<tls::Peer> peer() const { return http_.peer(); }

    /** Ends the connection; the next call makes a new one. */
    void close() { http_.close(); }

  private:
    http::Client http_;
};

} // namespace airlock::boot
