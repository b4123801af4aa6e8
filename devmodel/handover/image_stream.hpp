#pragma once

#include "devmodel/handover/memory_image.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>

/** Images (guest memory, disks) on the wire and in spool files.
 *
 * A stream is, with numbers as be64:
 *
 *     "ALIMAGE1"  bytes of the image
 *     record*     chunk index (ascending), page mask, the pages of the mask
 *     end         2^64-1, number of records
 *
 * The chunks are those of memory_image.hpp, and so are the digests. A record
 * describes its chunk wholly: bit n of the mask is set if page n holds
 * something, and its 4096 bytes follow; all others are zero. A disk has whole
 * sectors and not always whole pages: its last page may be shorter. Chunks
 * without a
 * record are zero in a full stream and unchanged in a delta. Which of the two
 * a stream is, the receiver knows from where it got it.
 */
namespace airlock::handover
{

/** What disks are made of. */
inline constexpr std::uint64_t imageSectorBytes = 512;

/** Throws Refused when no image can have this size: not whole sectors, zero,
 * or beyond memoryMaxBytes. */
void requireImageSize(std::uint64_t bytes, std::string_view where);

/** The longest stream that an image of this size can have. */
constexpr std::uint64_t imageStreamMaxBytes(std::uint64_t bytes)
{
    std::uint64_t chunks = (bytes + memoryChunkBytes - 1) / memoryChunkBytes;
    return bytes + (chunks + 2) * 16;
}

/** One record. `pages` holds the pages of the mask, one after the other. */
struct ImageChunk
{
    std::uint64_t index = 0;
    std::uint64_t mask = 0;
    ByteView pages;
};

/** The digest that MemoryDigest has for this chunk (its mask is not 0). */
Digest chunkDigest(const ImageChunk& chunk);

/** Where an image is read from. Reading may throw. */
class ImageSource
{
  public:
    virtual ~ImageSource() = default;
    virtual std::uint64_t bytes() const = 0;
    /** The first byte at or after `begin` that may be not zero; bytes() when
     * there is none. */
    virtual std::uint64_t nextData(std::uint64_t begin) = 0;
    virtual void read(std::span<std::uint8_t> out, std::uint64_t offset) = 0;
};

/** A sparse file; stays the caller's. */
class FileImage : public ImageSource
{
  public:
    /** Refused unless the file has exactly this size. */
    FileImage(int fd, std::uint64_t bytes);

    std::uint64_t bytes() const override { return bytes_; }
    std::uint64_t nextData(std::uint64_t begin) override;
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override;

  private:
    int fd_;
    std::uint64_t bytes_;
};

/** Takes the stream piece by piece; may throw, which ends the writing. */
using ImageSink = std::function<void(ByteView)>;

/** A full stream says something at least so often, as long as its source can be
 * read: of a long run of zeros that have to be read a record now and then. */
inline constexpr std::chrono::seconds imageStreamSilence{1};

/** Writes a full stream, or with `base` the delta from the image that has
 * those digests. Each chunk is read once. The result is of the whole image,
 * with the figures of what was written. */
MemoryResult writeImageStream(ImageSource& source, const ImageSink& sink,
                              const MemoryDigest* base = nullptr);

/** Writes a full stream without looking for digests. The source is read by
 * another thread, some chunks ahead of the sink. */
MemoryFigures writeImage(ImageSource& source, const ImageSink& sink);

/** Writes the delta from one image to another of the same size, found by
 * comparing bytes: for who has both at hand this takes a fraction of the time
 * of hashing. */
MemoryFigures writeImageDelta(ImageSource& now, ImageSource& before,
                              const ImageSink& sink);

/** Reads a stream that may be anything, in pieces of any size. Holds at most
 * one record. Throws Refused at the first thing that is wrong; after that the
 * object is of no use. */
class ImageStreamReader
{
  public:
    using OnChunk = std::function<void(const ImageChunk&)>;

    /** For an image of exactly `bytes` bytes. */
    ImageStreamReader(std::uint64_t bytes, OnChunk onChunk);

    void feed(ByteView data);
    /** Refused unless the end record was read. */
    void finish() const;

    std::uint64_t chunks() const { return chunks_; }
    std::uint64_t pages() const { return pages_; }
    /** How much of the image lies before the latest record. */
    std::uint64_t position() const { return index_ * memoryChunkBytes; }

  private:
    enum class Want
    {
        head,
        record,
        pages,
        nothing,
    };

    void takeWanted();
    void startRecord(ByteReader& reader);

    std::uint64_t bytes_;
    OnChunk onChunk_;
    Want want_ = Want::head;
    std::size_t wanted_;
    Bytes buffer_;
    std::uint64_t index_ = 0;
    std::uint64_t mask_ = 0;
    std::uint64_t chunks_ = 0;
    std::uint64_t pages_ = 0;
};

/** Writes chunks to a file of the image's size, zero pages as holes. */
class ImageFile
{
  public:
    ImageFile(int fd, std::uint64_t bytes) : fd_(fd), bytes_(bytes) {}

    void write(const ImageChunk& chunk) const;

  private:
    int fd_;
    std::uint64_t bytes_;
};

} // namespace airlock::handover
