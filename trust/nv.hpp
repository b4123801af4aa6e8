#pragma once

#include "trust/tpm.hpp"

namespace airlock::trust
{

/** Indices of the TPM's own memory that the owner writes and everybody reads.
 * The owner's authorization has to be in force for the first two. */
void defineIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                 std::uint16_t size);
void writeIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                ByteView data);
/** With the index's own, empty authorization. */
Bytes readIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                std::size_t size);
std::size_t indexSize(const Tpm& tpm, TPM2_HANDLE handle);

/** Whether the index is there, as ours, and was written. */
bool isWritten(const Tpm& tpm, TPM2_HANDLE handle, std::uint16_t size);

} // namespace airlock::trust
