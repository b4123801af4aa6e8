#pragma once

#include "bootsrv/machine/modes.hpp"
#include "common/bytes.hpp"

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/** Which image firmware starts next: UEFI's BootNext, BootOrder and Boot####.
 *
 * The partition with the images has the same GUID at every boot host, so the
 * entries are constants: whoever resets them does not have to look at a disk.
 */
namespace airlock::machine
{

/** GUIDs of the variables and of the partition, as they are in memory. */
using Guid = std::array<std::uint8_t, 16>;
/** From "8be4df61-93ca-11d2-aa0d-00e098032b8c"; Refused otherwise. */
Guid parseGuid(std::string_view text);

inline constexpr const char* globalVariables =
    "8be4df61-93ca-11d2-aa0d-00e098032b8c";
inline constexpr const char* espGuid = "a17c0000-0b00-4e5f-8a1c-c1ea4d171e00";
inline constexpr unsigned espNumber = 1;

/** Clean mode's image is where firmware looks without any entry. */
inline constexpr const char* cleanPath = "\\EFI\\BOOT\\BOOTX64.EFI";
inline constexpr const char* dirtyPath = "\\EFI\\airlock\\dirty.efi";

/** NV, BS, RT: what boot variables are. */
inline constexpr std::uint32_t bootAttributes = 7;

/** The number of a mode's entry, Boot####. */
std::uint16_t bootNumber(Mode mode);
/** "BootA100" */
std::string bootVariable(Mode mode);
/** An EFI_LOAD_OPTION without optional data, which would be a command line. */
Bytes loadOption(Mode mode);
/** The value of BootOrder or BootNext. */
Bytes bootList(std::span<const Mode> modes);
/** Without a terminating zero; ASCII only. */
Bytes utf16(std::string_view text);

/** Writes variables through efivarfs at this place. */
class BootChoice
{
  public:
    explicit BootChoice(
        std::filesystem::path variables = "/sys/firmware/efi/efivars")
        : variables_(std::move(variables))
    {}

    /** Clean mode first, both entries as they should be, no other choice for
     * the next start: whatever dirty mode has written is gone. */
    void reset() const;
    /** The mode of the next start, once. */
    void next(Mode mode) const;

  private:
    std::filesystem::path fileOf(std::string_view name) const;
    void write(std::string_view name, ByteView data) const;
    void remove(std::string_view name) const;

    std::filesystem::path variables_;
};

} // namespace airlock::machine
