#pragma once

#include "common/bytes.hpp"
#include "devmodel/handover/section.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace airlock::test
{

/** A stream that is not the one it was made from, and what was done to it. */
struct Mutation
{
    std::string what;
    Bytes stream;
};

/** Makes wrong streams of a right one of the production machine, the same
 * ones for the same seed. Most changes are of values, so that they get past
 * the framing and reach the devices. */
class StreamMutator
{
  public:
    StreamMutator(Bytes stream, std::uint64_t seed);

    Mutation next();

  private:
    struct Place
    {
        handover::SectionId id;
        std::size_t header;              ///< offset in the stream
        std::size_t payload;             ///< offset in the stream
        std::size_t size;                ///< of the payload
        std::vector<std::size_t> starts; ///< worthChanging(), in the payload
    };

    std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
    const Place& anySection();
    /** An offset in the stream, in a payload, and its name. */
    std::size_t position(std::string& name);

    Mutation flipBits();
    Mutation setNumber();
    Mutation cut();
    Mutation lose();
    Mutation insert();
    Mutation addSubsection();
    Mutation moveSections();

    Bytes stream_;
    std::vector<Place> places_;
    std::mt19937_64 random_;
};

} // namespace airlock::test
