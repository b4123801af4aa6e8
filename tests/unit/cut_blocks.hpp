#pragma once

#include "bootsrv/machine/blocks.hpp"
#include "bootsrv/machine/clean_mode.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace airlock::test
{

/** Thrown by everything once the power is gone; nothing that is ours catches
 * it. */
struct PowerCut
{};

/** The power of a machine: goes before the operation after so many. */
class Power
{
  public:
    explicit Power(std::uint64_t operations = ~0ULL) : left_(operations) {}

    void use()
    {
        if (left_ == 0)
        {
            throw PowerCut();
        }
        left_--;
        used_++;
    }
    std::uint64_t used() const { return used_; }
    bool gone() const { return left_ == 0; }

  private:
    std::uint64_t left_;
    std::uint64_t used_ = 0;
};

/** What a disk holds, by sectors; the rest is zeros. */
struct Platter
{
    static constexpr std::uint64_t sector = 512;
    using Sector = std::array<std::uint8_t, sector>;

    std::map<std::uint64_t, Sector> sectors;
};

/** A disk with a volatile cache: what was not synced when the power goes is
 * there or not, sector by sector, as the seed has it. So a write may be torn,
 * and a later one may be there without an earlier one. */
class CutBlocks : public machine::Blocks
{
  public:
    CutBlocks(Platter& platter, std::uint64_t bytes, Power& power)
        : platter_(platter), cached_(platter), bytes_(bytes), power_(power)
    {}

    std::uint64_t bytes() const override { return bytes_; }

    void read(std::span<std::uint8_t> out, std::uint64_t offset) override
    {
        for (std::size_t i = 0; i < out.size();)
        {
            std::uint64_t at = offset + i;
            std::uint64_t skip = at % Platter::sector;
            std::size_t now =
                std::min<std::size_t>(out.size() - i, Platter::sector - skip);
            auto found = cached_.sectors.find(at / Platter::sector);
            if (found == cached_.sectors.end())
            {
                std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(i), now,
                            std::uint8_t{0});
            }
            else
            {
                std::copy_n(found->second.begin() +
                                static_cast<std::ptrdiff_t>(skip),
                            now, out.begin() + static_cast<std::ptrdiff_t>(i));
            }
            i += now;
        }
    }

    void write(ByteView data, std::uint64_t offset) override
    {
        if (offset % Platter::sector != 0 || data.size() % Platter::sector != 0)
        {
            throw Error("a test's disk takes whole sectors");
        }
        if (offset > bytes_ || data.size() > bytes_ - offset)
        {
            throw Error("a write goes beyond the disk");
        }
        power_.use();
        for (std::size_t i = 0; i < data.size(); i += Platter::sector)
        {
            std::uint64_t number = (offset + i) / Platter::sector;
            std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(i),
                        Platter::sector, cached_.sectors[number].begin());
            dirty_.push_back(number);
        }
    }

    void sync() override
    {
        power_.use();
        settle(1, 0);
    }

    void discard(std::uint64_t offset, std::uint64_t bytes) override
    {
        power_.use();
        auto first = cached_.sectors.lower_bound(offset / Platter::sector);
        auto last =
            cached_.sectors.lower_bound((offset + bytes) / Platter::sector);
        cached_.sectors.erase(first, last);
        first = platter_.sectors.lower_bound(offset / Platter::sector);
        last = platter_.sectors.lower_bound((offset + bytes) / Platter::sector);
        platter_.sectors.erase(first, last);
    }

    /** The power has gone: what the platter has now. Seed 0: nothing of the
     * cache; 1: all of it. */
    void lose(std::uint64_t seed) { settle(seed, seed); }

  private:
    void settle(std::uint64_t mode, std::uint64_t seed)
    {
        std::mt19937_64 random(seed);
        for (std::uint64_t number : dirty_)
        {
            bool keep = mode == 1 || (mode > 1 && random() % 2 == 0);
            if (keep)
            {
                platter_.sectors[number] = cached_.sectors[number];
            }
        }
        dirty_.clear();
    }

    Platter& platter_;
    Platter cached_;
    std::uint64_t bytes_;
    Power& power_;
    std::vector<std::uint64_t> dirty_;
};

/** What an anchor's TPM holds. */
class CutAnchor : public machine::SequenceAnchor
{
  public:
    CutAnchor(std::uint64_t& number, Power& power)
        : number_(number), power_(power)
    {}

    std::uint64_t floor() override { return number_; }
    void raise(std::uint64_t sequence) override
    {
        power_.use();
        if (sequence < number_)
        {
            throw Error("the anchor would fall");
        }
        number_ = sequence;
    }

  private:
    std::uint64_t& number_;
    Power& power_;
};

} // namespace airlock::test
