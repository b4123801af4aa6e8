#pragma once

#include "common/bytes.hpp"

#include <cstdint>
#include <string>

namespace airlock::handover
{

/** What names a device section in a QEMU stream (migration/savevm.c). */
struct SectionId
{
    std::string idstr;          ///< "cpu", "0000:00:02.0/virtio-blk"; <= 255
    std::uint32_t instance = 0; ///< instance_id, for example the vCPU index
    std::uint32_t version = 0;  ///< version_id of the device's VMState

    bool sameDevice(const SectionId& other) const
    {
        return idstr == other.idstr && instance == other.instance;
    }
    bool operator==(const SectionId&) const = default;
};

/** One device's state: its name and its payload, header and footer gone. */
struct Section
{
    SectionId id;
    Bytes payload;
};

/** The part of an idstr after the last '/': the VMState name that the catalog
 * lists ("virtio-blk" of "0000:00:02.0/virtio-blk"). */
inline std::string vmstateName(const std::string& idstr)
{
    return idstr.substr(idstr.find_last_of('/') + 1);
}

} // namespace airlock::handover
