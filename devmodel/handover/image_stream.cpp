#include "devmodel/handover/image_stream.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

namespace airlock::handover
{

namespace
{

constexpr std::string_view magic = "ALIMAGE1";
constexpr std::uint64_t endIndex = ~std::uint64_t{0};
constexpr std::size_t numberBytes = sizeof(std::uint64_t);
constexpr std::size_t headBytes = magic.size() + numberBytes;
constexpr std::size_t recordBytes = 2 * numberBytes;

std::size_t chunkBytes(std::uint64_t index, std::uint64_t imageBytes)
{
    return static_cast<std::size_t>(
        std::min(memoryChunkBytes, imageBytes - index * memoryChunkBytes));
}

std::size_t pageCount(std::size_t chunk)
{
    return (chunk + memoryPageBytes - 1) / memoryPageBytes;
}

/** Bytes of the pages of a mask, of which the image's last may be short. */
std::size_t maskedBytes(std::uint64_t mask, std::size_t chunk)
{
    const std::size_t pages = pageCount(chunk);
    const bool last = (mask >> (pages - 1) & 1) != 0;
    return static_cast<unsigned>(std::popcount(mask)) * memoryPageBytes -
           (last ? pages * memoryPageBytes - chunk : 0);
}

/** Reads a chunk and packs its pages. */
class ChunkReader
{
  public:
    explicit ChunkReader(ImageSource& source)
        : source_(&source), buffer_(memoryChunkBytes)
    {}

    ImageChunk read(std::uint64_t index)
    {
        std::span<std::uint8_t> chunk =
            std::span(buffer_).first(chunkBytes(index, source_->bytes()));
        source_->read(chunk, index * memoryChunkBytes);
        ImageChunk out;
        out.index = index;
        std::size_t kept = 0;
        for (std::size_t at = 0; at < chunk.size(); at += memoryPageBytes)
        {
            auto page = chunk.subspan(
                at, std::min<std::size_t>(memoryPageBytes, chunk.size() - at));
            if (isZeroPage(page))
            {
                continue;
            }
            out.mask |= std::uint64_t{1} << (at / memoryPageBytes);
            if (kept != at)
            {
                std::memcpy(&buffer_[kept], page.data(), page.size());
            }
            kept += page.size();
        }
        out.pages = ByteView(buffer_).first(kept);
        return out;
    }

  private:
    ImageSource* source_;
    Bytes buffer_;
};

/** Reads the chunks of an image that may hold something, in a thread of its
 * own, while those before are used. */
class ReadAhead
{
  public:
    explicit ReadAhead(ImageSource& source)
        : source_(source),
          reader_([this](const std::stop_token& stop) { run(stop); })
    {}

    /** The next one, valid until the next call; nothing at the end. */
    const ImageChunk* next()
    {
        std::unique_lock lock(mutex_);
        if (taken_)
        {
            free_.push_back(std::move(*taken_));
            taken_.reset();
            changed_.notify_all();
        }
        changed_.wait(lock, [this] { return !read_.empty() || over_; });
        if (read_.empty())
        {
            if (failure_)
            {
                std::rethrow_exception(failure_);
            }
            return nullptr;
        }
        taken_ = std::move(read_.front());
        read_.pop_front();
        return &taken_->chunk;
    }

  private:
    struct Slot
    {
        explicit Slot(ImageSource& source) : reader(source) {}

        ChunkReader reader;
        ImageChunk chunk;
    };

    static constexpr std::size_t slots = 8;

    void run(const std::stop_token& stop)
    {
        try
        {
            readAll(stop);
        }
        catch (...)
        {
            failure_ = std::current_exception();
        }
        std::lock_guard lock(mutex_);
        over_ = true;
        changed_.notify_all();
    }

    void readAll(const std::stop_token& stop)
    {
        const std::uint64_t end = source_.bytes();
        std::uint64_t at = source_.nextData(0);
        while (at < end)
        {
            const std::uint64_t index = at / memoryChunkBytes;
            std::optional<Slot> slot = takeFree(stop);
            if (!slot)
            {
                return;
            }
            slot->chunk = slot->reader.read(index);
            {
                std::lock_guard lock(mutex_);
                read_.push_back(std::move(*slot));
                changed_.notify_all();
            }
            at = (index + 1) * memoryChunkBytes;
            at = at < end ? source_.nextData(at) : end;
        }
    }

    std::optional<Slot> takeFree(const std::stop_token& stop)
    {
        std::unique_lock lock(mutex_);
        if (made_ < slots)
        {
            made_++;
            return Slot(source_);
        }
        if (!changed_.wait(lock, stop, [this] { return !free_.empty(); }))
        {
            return std::nullopt;
        }
        Slot out = std::move(free_.back());
        free_.pop_back();
        return out;
    }

    ImageSource& source_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Slot> read_;
    std::vector<Slot> free_;
    std::optional<Slot> taken_;
    std::size_t made_ = 0;
    bool over_ = false;
    std::exception_ptr failure_; ///< set before over_
    std::jthread reader_;        ///< ends before what it uses
};

/** What the base has, taken in ascending order. */
class BaseCursor
{
  public:
    explicit BaseCursor(const MemoryDigest* base) : base_(base) {}

    /** The chunks of the base that were passed over, and so are zero now. */
    template <typename Action>
    void skipTo(std::uint64_t index, const Action& action)
    {
        for (; base_ != nullptr && next_ < base_->chunks.size() &&
               base_->chunks[next_].index < index;
             next_++)
        {
            action(base_->chunks[next_].index);
        }
    }

    bool matches(const ChunkDigest& chunk)
    {
        bool same = base_ != nullptr && next_ < base_->chunks.size() &&
                    base_->chunks[next_] == chunk;
        if (base_ != nullptr && next_ < base_->chunks.size() &&
            base_->chunks[next_].index == chunk.index)
        {
            next_++;
        }
        return same;
    }

  private:
    const MemoryDigest* base_;
    std::size_t next_ = 0;
};

class StreamWriter
{
  public:
    explicit StreamWriter(const ImageSink& sink) : sink_(sink) {}

    /** It has said nothing for a while. */
    bool silent() const
    {
        return std::chrono::steady_clock::now() - spoke_ > imageStreamSilence;
    }

    void head(std::uint64_t bytes)
    {
        ByteWriter writer;
        writer.text(magic);
        writer.be64(bytes);
        sink_(writer.data());
    }
    void record(const ImageChunk& chunk)
    {
        ByteWriter writer;
        writer.be64(chunk.index);
        writer.be64(chunk.mask);
        sink_(writer.data());
        if (!chunk.pages.empty())
        {
            sink_(chunk.pages);
        }
        figures.chunks++;
        figures.pages += static_cast<unsigned>(std::popcount(chunk.mask));
        spoke_ = std::chrono::steady_clock::now();
    }
    void end()
    {
        ByteWriter writer;
        writer.be64(endIndex);
        writer.be64(figures.chunks);
        sink_(writer.data());
    }

    MemoryFigures figures;

  private:
    const ImageSink& sink_;
    std::chrono::steady_clock::time_point spoke_ =
        std::chrono::steady_clock::now();
};

} // namespace

void requireImageSize(std::uint64_t bytes, std::string_view where)
{
    if (bytes == 0 || bytes % imageSectorBytes != 0 || bytes > memoryMaxBytes)
    {
        throw Refused(where, fmt::format("{} bytes is no size of a disk: they "
                                         "have whole sectors of {} bytes",
                                         bytes, imageSectorBytes));
    }
}

Digest chunkDigest(const ImageChunk& chunk)
{
    Sha256 hash;
    hash.updateBe64(chunk.mask);
    hash.update(chunk.pages);
    return hash.finish();
}

FileImage::FileImage(int fd, std::uint64_t bytes) : fd_(fd), bytes_(bytes)
{
    requireImageSize(bytes, "image");
    if (fileSize(fd) != bytes)
    {
        throw Refused("image", fmt::format("the file has {} bytes, not {}",
                                           fileSize(fd), bytes));
    }
}

std::uint64_t FileImage::nextData(std::uint64_t begin)
{
    off_t found = ::lseek(fd_, static_cast<off_t>(begin), SEEK_DATA);
    if (found < 0 && errno != ENXIO)
    {
        throwErrno("cannot look for data in an image");
    }
    return found < 0 ? bytes_
                     : std::min(static_cast<std::uint64_t>(found), bytes_);
}

void FileImage::read(std::span<std::uint8_t> out, std::uint64_t offset)
{
    readExactAt(fd_, out, offset);
}

MemoryResult writeImageStream(ImageSource& source, const ImageSink& sink,
                              const MemoryDigest* base)
{
    auto start = std::chrono::steady_clock::now();
    requireImageSize(source.bytes(), "image");
    ChunkReader reader(source);
    BaseCursor cursor(base);
    StreamWriter stream(sink);
    MemoryResult result;
    result.digest.bytes = source.bytes();
    auto zeroNow = [&](std::uint64_t index) { stream.record({index, 0, {}}); };

    stream.head(source.bytes());
    std::uint64_t end = source.bytes();
    for (std::uint64_t at = source.nextData(0); at < end;
         at = source.nextData(at))
    {
        std::uint64_t index = at / memoryChunkBytes;
        at = std::min((index + 1) * memoryChunkBytes, end);
        ImageChunk chunk = reader.read(index);
        if (chunk.mask != 0)
        {
            cursor.skipTo(index, zeroNow);
            ChunkDigest digest{index, chunkDigest(chunk)};
            if (!cursor.matches(digest))
            {
                stream.record(chunk);
            }
            result.digest.chunks.push_back(digest);
        }
        else if (base == nullptr && stream.silent())
        {
            zeroNow(index);
        }
        if (at >= end)
        {
            break;
        }
    }
    cursor.skipTo(endIndex, zeroNow);
    stream.end();
    result.figures = stream.figures;
    result.figures.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return result;
}

MemoryFigures writeImage(ImageSource& source, const ImageSink& sink)
{
    auto start = std::chrono::steady_clock::now();
    requireImageSize(source.bytes(), "image");
    StreamWriter stream(sink);
    stream.head(source.bytes());
    ReadAhead chunks(source);
    while (const ImageChunk* chunk = chunks.next())
    {
        if (chunk->mask != 0 || stream.silent())
        {
            stream.record(*chunk);
        }
    }
    stream.end();
    stream.figures.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return stream.figures;
}

MemoryFigures writeImageDelta(ImageSource& now, ImageSource& before,
                              const ImageSink& sink)
{
    auto start = std::chrono::steady_clock::now();
    if (now.bytes() != before.bytes())
    {
        throw Refused("image", "cannot be compared with one of another size");
    }
    StreamWriter writer(sink);
    writer.head(now.bytes());
    ChunkReader newReader(now);
    ChunkReader oldReader(before);
    std::uint64_t at = 0;
    while (at < now.bytes())
    {
        std::uint64_t data = std::min(now.nextData(at), before.nextData(at));
        if (data >= now.bytes())
        {
            break;
        }
        std::uint64_t index = data / memoryChunkBytes;
        ImageChunk chunk = newReader.read(index);
        ImageChunk old = oldReader.read(index);
        if (chunk.mask != old.mask ||
            !std::equal(chunk.pages.begin(), chunk.pages.end(),
                        old.pages.begin(), old.pages.end()))
        {
            writer.record(chunk);
        }
        at = (index + 1) * memoryChunkBytes;
    }
    writer.end();
    writer.figures.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return writer.figures;
}

ImageStreamReader::ImageStreamReader(std::uint64_t bytes, OnChunk onChunk)
    : bytes_(bytes), onChunk_(std::move(onChunk)), wanted_(headBytes)
{
    requireImageSize(bytes, "image");
}

void ImageStreamReader::feed(ByteView data)
{
    while (!data.empty())
    {
        if (want_ == Want::nothing)
        {
            throw Refused("image stream", "goes on after its end");
        }
        std::size_t part = std::min(data.size(), wanted_ - buffer_.size());
        buffer_.insert(buffer_.end(), data.begin(),
                       data.begin() + static_cast<std::ptrdiff_t>(part));
        data = data.subspan(part);
        if (buffer_.size() == wanted_)
        {
            takeWanted();
        }
    }
}

void ImageStreamReader::takeWanted()
{
    ByteReader reader(buffer_, "image stream");
    switch (want_)
    {
    case Want::head:
        if (std::memcmp(reader.take(magic.size()).data(), magic.data(),
                        magic.size()) != 0)
        {
            throw Refused("image stream", "does not start as one");
        }
        if (std::uint64_t bytes = reader.be64(); bytes != bytes_)
        {
            throw Refused("image stream",
                          fmt::format("is of an image of {} bytes, not {}",
                                      bytes, bytes_));
        }
        want_ = Want::record;
        wanted_ = recordBytes;
        break;
    case Want::record:
        startRecord(reader);
        break;
    case Want::pages:
        onChunk_({index_, mask_, buffer_});
        want_ = Want::record;
        wanted_ = recordBytes;
        break;
    case Want::nothing:
        break;
    }
    buffer_.clear();
}

void ImageStreamReader::startRecord(ByteReader& reader)
{
    std::uint64_t index = reader.be64();
    std::uint64_t mask = reader.be64();
    if (index == endIndex)
    {
        if (mask != chunks_)
        {
            throw Refused("image stream",
                          fmt::format("ends after {} records and says {}",
                                      chunks_, mask));
        }
        want_ = Want::nothing;
        return;
    }
    std::uint64_t last = (bytes_ - 1) / memoryChunkBytes;
    if (index > last || (chunks_ > 0 && index <= index_))
    {
        throw Refused("image stream",
                      fmt::format("chunk {} is out of order or beyond the "
                                  "image's last one, {}",
                                  index, last));
    }
    const std::size_t chunk = chunkBytes(index, bytes_);
    const std::size_t pages = pageCount(chunk);
    if (pages < 64 && (mask >> pages) != 0)
    {
        throw Refused(
            "image stream",
            fmt::format("chunk {} has pages beyond the image", index));
    }
    index_ = index;
    mask_ = mask;
    chunks_++;
    pages_ += static_cast<unsigned>(std::popcount(mask));
    if (mask == 0)
    {
        onChunk_({index, 0, {}});
        return;
    }
    want_ = Want::pages;
    wanted_ = maskedBytes(mask, chunk);
}

void ImageStreamReader::finish() const
{
    if (want_ != Want::nothing)
    {
        throw Refused("image stream", "ends before its end record");
    }
}

void ImageFile::write(const ImageChunk& chunk) const
{
    std::uint64_t start = chunk.index * memoryChunkBytes;
    const std::size_t whole = chunkBytes(chunk.index, bytes_);
    const std::size_t pages = pageCount(whole);
    std::size_t used = 0;
    for (std::size_t page = 0; page < pages;)
    {
        std::uint64_t rest = chunk.mask >> page;
        bool set = (rest & 1) != 0;
        auto same = static_cast<std::size_t>(set ? std::countr_one(rest)
                                                 : std::countr_zero(rest));
        std::size_t run = std::min(same, pages - page);
        const std::size_t first = page * memoryPageBytes;
        std::uint64_t at = start + first;
        std::size_t length = std::min(run * memoryPageBytes, whole - first);
        if (set)
        {
            writeAllAt(fd_, chunk.pages.subspan(used, length), at);
            used += length;
        }
        else if (::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             static_cast<off_t>(at),
                             static_cast<off_t>(length)) != 0)
        {
            throwErrno("cannot discard a part of an image");
        }
        page += run;
    }
}

} // namespace airlock::handover
