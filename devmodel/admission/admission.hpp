#pragma once

#include "common/bytes.hpp"
#include "devmodel/handover/admit.hpp"
#include "devmodel/handover/reduce.hpp"

#include <cstdint>
#include <string>
#include <vector>

/** Admission in a process of its own.
 *
 * What a boot host returns is hostile, and some thousands of lines read it.
 * They run in airlock-admit, which starts with four open files, gives up
 * everything but arithmetic (seccomp: no files, sockets, processes, no
 * executable memory) and only then looks at its input. Whoever takes it over
 * can only return another stream; QEMU's loader stands behind it.
 */
namespace airlock::admission
{

/** The machine that the state is for, as handover::Environment needs it. */
struct Machine
{
    std::uint64_t memory = 0; ///< bytes
    unsigned vcpus = 0;
    std::string cpuModel;
    handover::Accelerator accelerator = handover::Accelerator::Tcg;
};

struct Admitted
{
    Bytes state; ///< the stream to load
    std::vector<handover::SectionId> kept;
    std::vector<handover::DroppedSection> dropped;
};

/** Reduces and admits the stream that a boot machine wrote.
 *
 * `reference` is what the trapped production machine saved, `memory` the file
 * of its memory as it will be when the state is loaded; it is only read.
 * Throws Refused with the section and the reason, Error when the process
 * cannot be started or does not end as it should.
 */
Admitted admit(const Machine& machine, ByteView candidate, ByteView reference,
               int memory);

/** Gives up what airlock-admit does not need; on return only what is open can
 * be used. Throws Error when the kernel does not allow it. */
void confine();

} // namespace airlock::admission
