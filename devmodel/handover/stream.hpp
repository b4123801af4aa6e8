#pragma once

#include "common/bytes.hpp"
#include "devmodel/handover/ram.hpp"
#include "devmodel/handover/section.hpp"
#include "devmodel/handover/vmdesc.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::handover
{

/** QEMU migration streams, read and written (migration/savevm.c, ram.c).
 *
 * All input is hostile: every parser throws Refused on what it does not know
 * and reads nothing beyond the bytes it was given.
 */

/** The configuration section (vmstate_configuration). */
struct Configuration
{
    std::string machine;                   ///< "airlock-boot-1.0"
    std::vector<std::string> capabilities; ///< those that change the format
    std::optional<std::array<std::uint8_t, 16>> uuid;
};

/** A stream of stock QEMU `migrate`, taken apart. */
struct BootStream
{
    Configuration configuration;
    std::vector<Section> sections; ///< FULL sections in stream order
    RamSummary ram;
    VmDesc description; ///< devices[i] describes sections[i]
};

/** A stream in the framing of the production machine: machine name, FULL
 * sections with ids 0..n-1, EOF, description "{}". */
struct ProductionStream
{
    std::string machine;
    std::vector<Section> sections;
};

/** Size of the payload that `rest` starts with, for a production stream, which
 * has no description. May throw Refused. */
using PayloadSize =
    std::function<std::size_t(const SectionId& id, ByteView rest)>;

/** "cpu/1", as error messages name a section. */
std::string label(const SectionId& id);

/** Throws Refused when two sections name the same device. */
void refuseDuplicates(std::span<const Section> sections);

/** Parses a stream that QEMU 10.0 wrote to a file or pipe; at most 64 MiB,
 * 4096 sections. Of the capabilities that change the format it accepts only
 * x-ignore-shared; the only iterable section may be `ram`. */
BootStream parseBootStream(ByteView stream);

/** Parses what writeProductionStream() or QMP save wrote; at most 16 MiB. */
ProductionStream parseProductionStream(ByteView stream,
                                       const PayloadSize& payloadSize);

/** Writes the one form that the production machine loads. Throws Error when
 * that form cannot hold the sections (name too long, more than 16 MiB). */
Bytes writeProductionStream(std::string_view machine,
                            std::span<const Section> sections);

} // namespace airlock::handover
