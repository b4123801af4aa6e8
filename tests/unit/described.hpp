#pragma once

#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"

#include <exception>
#include <string>

namespace airlock::test
{

/** Holds a state that a production machine saved against the tables: they have
 * to account for every byte of it, and writing what was read has to give the
 * same bytes. Returns what is wrong, with the section's name; "" if nothing.
 *
 * Nothing in the stream says where a section ends, so one byte that no table
 * describes, or one too many that a table describes, misses the mark behind
 * the section. */
inline std::string notDescribed(ByteView saved)
{
    try
    {
        const auto stream =
            handover::parseProductionStream(saved, handover::sectionSize);
        for (const handover::Section& section : stream.sections)
        {
            if (handover::serialise(handover::parseSection(section)) !=
                section.payload)
            {
                return handover::label(section.id) +
                       ": is written in other bytes than it was read from";
            }
        }
        const Bytes again =
            handover::writeProductionStream(stream.machine, stream.sections);
        return std::ranges::equal(again, saved)
                   ? ""
                   : "stream: is written in other bytes than it was read from";
    }
    catch (const std::exception& error)
    {
        return error.what();
    }
}

} // namespace airlock::test
