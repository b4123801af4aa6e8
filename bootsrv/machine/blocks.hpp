#pragma once

#include "common/bytes.hpp"
#include "common/fd.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace airlock::machine
{

/** The bytes of a partition. Safe to use from several threads. */
class Blocks
{
  public:
    virtual ~Blocks() = default;

    virtual std::uint64_t bytes() const = 0;
    virtual void read(std::span<std::uint8_t> out, std::uint64_t offset) = 0;
    virtual void write(ByteView data, std::uint64_t offset) = 0;
    /** On return everything that was written survives a loss of power. */
    virtual void sync() = 0;
    /** The bytes are of no more use; they may or may not read as zeros then.
     * No error when the disk cannot do that. */
    virtual void discard(std::uint64_t offset, std::uint64_t bytes) = 0;
};

/** A block device, or a file that stands for one. */
class DeviceBlocks : public Blocks
{
  public:
    /** Throws SystemError naming the path. */
    explicit DeviceBlocks(const std::filesystem::path& path);

    std::uint64_t bytes() const override { return bytes_; }
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override;
    void write(ByteView data, std::uint64_t offset) override;
    void sync() override;
    void discard(std::uint64_t offset, std::uint64_t bytes) override;

  private:
    void requireInside(std::uint64_t offset, std::uint64_t size) const;

    std::string name_;
    UniqueFd fd_;
    std::uint64_t bytes_ = 0;
    bool device_ = false;
};

} // namespace airlock::machine
