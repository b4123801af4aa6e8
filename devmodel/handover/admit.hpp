#pragma once

#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/section.hpp"

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

/** Admission: which device state may be loaded into the production machine.
 *
 * The candidate comes from a boot host that its guest may have taken over. It
 * is admitted only if it is a state that the guest could have set itself
 * through the registers of the production machine, with the memory that comes
 * with it. What the guest cannot set (sizes, identifiers, capabilities, links)
 * has to be as in the reference: the state that the trapped production machine
 * itself saved. Nothing is copied: every section is parsed by the project's
 * tables, checked, and written again from its values.
 */
namespace airlock::handover
{

enum class Accelerator : std::uint8_t
{
    Tcg,
    Kvm,
};

/** What the guest's CPU model lets it set. CPUID is not in the stream, so the
 * machine's owner says it here. The masks hold the bits that may be one. */
struct CpuContract
{
    std::uint64_t cr4 = 0;
    std::uint64_t efer = 0;
    std::uint64_t xcr0 = 1; ///< x87 is always there
    std::uint64_t xss = 0;
    std::uint64_t specCtrl = 0;   ///< IA32_SPEC_CTRL
    std::uint64_t miscEnable = 0; ///< IA32_MISC_ENABLE
    unsigned physicalBits = 40;   ///< reserved bits of CR3 and the MTRRs
    bool x2apic = false;          ///< and TSC deadline mode
    bool waitPackage = false;     ///< UMWAIT
    bool tsxControl = false;      ///< IA32_TSX_CTRL

    /** -cpu qemu64 and other models without XSAVE. */
    static CpuContract basic();
    /** Models up to AVX-512, for example Skylake-Server or EPYC. Without
     * SMX, VMX, SVM, LA57, protection keys for supervisors, CET, AMX, SGX. */
    static CpuContract wide();
    /** One of QEMU's named models, with or without version ("Haswell-v4").
     * Throws Error for one that is not known. */
    static CpuContract forModel(std::string_view name, Accelerator accelerator);
    /** The models that forModel() knows, without versions and variants. */
    static std::vector<std::string_view> models();
};

/** Address ranges are [start, end). */
struct AddressRange
{
    std::uint64_t start = 0;
    std::uint64_t end = 0;

    bool contains(std::uint64_t address, std::uint64_t size) const
    {
        return address >= start && address < end && size <= end - address;
    }
    bool overlaps(std::uint64_t address, std::uint64_t size) const
    {
        return address < end && start < address + size;
    }
    bool operator==(const AddressRange&) const = default;
};

/** What the candidate is checked against besides the reference. */
struct Environment
{
    std::uint64_t ramLow = 0;  ///< bytes of RAM from address 0
    std::uint64_t ramHigh = 0; ///< bytes of RAM from 4 GiB
    unsigned vcpus = 1;
    Accelerator accelerator = Accelerator::Tcg;
    CpuContract cpu = CpuContract::basic();

    /** Where BARs may be decoded. ECAM, which lies in mmio32, is taken out
     * where the host bridge's register puts it. */
    AddressRange mmio32;
    AddressRange mmio64;

    /** How long the boot may have taken on the guest's clocks. A bound for
     * every time in the state, and with 8 GHz for every TSC. */
    std::int64_t maxUptimeNs = 30LL * 24 * 3600 * 1'000'000'000;
    /** How far a timer may be behind the guest's clock: a stopped machine's
     * timers have all run but for the last few. */
    std::int64_t maxTimerLagNs = 10'000'000'000;

    /** Reads guest memory as it will be when the state is loaded. False if
     * the range is not wholly in RAM. */
    std::function<bool(std::uint64_t gpa, std::span<std::uint8_t> out)> read;

    /** The machine's fixed layout for that much RAM (as q35): up to
     * 0xb0000000 bytes are low, more is split at 2 GiB. `read` is left to the
     * caller. */
    static Environment forMemory(std::uint64_t ramBytes);
};

/** The state that the trapped production machine saved, read once for any
 * number of candidates. */
class Reference
{
  public:
    /** Throws Error if this is not what this project's production machine
     * saves. */
    explicit Reference(std::span<const Section> saved);

    std::span<const SectionId> ids() const { return ids_; }
    std::span<const Record> records() const { return records_; }
    unsigned vcpus() const;

  private:
    std::vector<SectionId> ids_;
    std::vector<Record> records_; ///< one for each id
};

/** Checks the candidate and returns the sections to load, in the reference's
 * order and in a new encoding.
 *
 * Some values are not taken from the candidate but worked out again, because
 * devices that were dropped have had a part in them or because they belong to
 * the host: PCIBUS.irq_count, the I/O APIC's input lines, virtio-net's link,
 * has_vnet_hdr and has_ufo, virtio-console's host_connected, the SMI count.
 *
 * Throws Refused with "section: field" and the reason; throws Error if the
 * reference has another number of vCPUs than the environment.
 */
std::vector<Section> admit(std::span<const Section> candidate,
                           const Reference& reference,
                           const Environment& environment);

/** For a reference that is used once. */
std::vector<Section> admit(std::span<const Section> candidate,
                           std::span<const Section> reference,
                           const Environment& environment);

} // namespace airlock::handover
