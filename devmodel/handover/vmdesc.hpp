#pragma once

#include "common/bytes.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::handover
{

/** The JSON description ("vmdesc") that QEMU appends to a migration stream.
 *
 * It gives each device section's fields with their sizes, so it is the only
 * thing that says where a section ends (migration/vmstate.c,
 * vmsd_desc_field_start; read the other way by scripts/analyze-migration.py).
 * It comes from the sender and proves nothing: it is good for cutting a stream
 * into sections and for naming fields in a report. What a field may be is the
 * schema's business.
 */

struct StructDesc;

/** One field: `count` elements of `size` bytes each. */
struct FieldDesc
{
    std::string name;
    std::string type; ///< "uint32", "struct", "buffer", "virtio", ...
    std::size_t size = 0;
    std::size_t count = 1;            ///< more than one: all alike
    std::optional<std::size_t> index; ///< set: one element of an array
    std::vector<StructDesc> inner;    ///< one entry when it is a struct
};

/** Fields in stream order, then the subsections that were present. */
struct StructDesc
{
    std::string name; ///< VMState name; empty for an old-style section
    std::uint32_t version = 0;
    std::vector<FieldDesc> fields;
    std::vector<StructDesc> subsections;
    std::size_t size = 0; ///< bytes of all of it, subsection headers included
};

/** One device section, in stream order. */
struct DeviceDesc
{
    std::string idstr;
    std::uint32_t instance = 0;
    StructDesc body;
};

struct VmDesc
{
    std::vector<DeviceDesc> devices;
};

/** Where one field lies in its section's payload. */
struct FieldSpan
{
    std::string path; ///< "env.regs", "vq[0].num", "cpu/msr_tsc_adjust: ..."
    std::size_t offset = 0;
    std::size_t size = 0;
};

/** Bytes that a subsection with this VMState name starts with: 0x05, length,
 * name, be32 version (vmstate_subsection_save). */
std::size_t subsectionHeaderSize(std::string_view name);

/** Reads a vmdesc. Throws Refused on anything but QEMU's own format: a size
 * or count beyond the stream limit, a struct whose fields do not add up to
 * its size, unprintable names, more than 4096 devices. */
VmDesc parseVmDesc(std::string_view json);

/** Checks a payload against its description: total size, and the header of
 * every subsection. Linear in the description. Throws Refused. */
void checkPayload(const DeviceDesc& device, ByteView payload);

/** Names every byte of a payload that checkPayload() accepts, in order,
 * arrays of structs element by element. Throws Refused when the names take
 * more than 16 MiB. */
std::vector<FieldSpan> layOut(const DeviceDesc& device, ByteView payload);

} // namespace airlock::handover
