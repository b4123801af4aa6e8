#include "devmodel/handover/admit_rules.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

#include <algorithm>
#include <array>
#include <initializer_list>

// The vCPUs.
//
// Under KVM the kernel checks most of this again, but QEMU's answer to a
// refused MSR is an assertion (target/i386/kvm/kvm.c: kvm_buf_set_msrs()), so
// what the kernel would refuse has to be refused here. Under TCG nothing
// checks: hflags, for example, is believed as it comes.

namespace airlock::handover
{

namespace
{

constexpr std::uint64_t bit(unsigned n)
{
    return 1ULL << n;
}

// Control registers (SDM volume 3, 2.5; names as in target/i386/cpu.h).
constexpr std::uint64_t cr0Pe = bit(0);
constexpr std::uint64_t cr0Et = bit(4);
constexpr std::uint64_t cr0Nw = bit(29);
constexpr std::uint64_t cr0Cd = bit(30);
constexpr std::uint64_t cr0Pg = bit(31);
constexpr std::uint64_t cr0Bits = 0xe005003f;

constexpr std::uint64_t cr4Basic = 0x7ff; // VME to OSXMMEXCPT
constexpr std::uint64_t cr4Pae = bit(5);
constexpr std::uint64_t cr4Osfxsr = bit(9);
constexpr std::uint64_t cr4Umip = bit(11);
constexpr std::uint64_t cr4Fsgsbase = bit(16);
constexpr std::uint64_t cr4Pcide = bit(17);
constexpr std::uint64_t cr4Osxsave = bit(18);
constexpr std::uint64_t cr4Smep = bit(20);
constexpr std::uint64_t cr4Smap = bit(21);
constexpr std::uint64_t cr4Pke = bit(22);

constexpr std::uint64_t eferSce = bit(0);
constexpr std::uint64_t eferLme = bit(8);
constexpr std::uint64_t eferLma = bit(10);
constexpr std::uint64_t eferNxe = bit(11);
constexpr std::uint64_t eferFfxsr = bit(14);
constexpr std::uint64_t eferAutoIbrs = bit(21);
constexpr std::uint64_t eferBasic = eferSce | eferLme | eferLma | eferNxe;

constexpr std::uint64_t xcrX87 = bit(0);
constexpr std::uint64_t xcrSse = bit(1);
constexpr std::uint64_t xcrAvx = bit(2);
constexpr std::uint64_t xcrAvx512 = bit(5) | bit(6) | bit(7);
constexpr std::uint64_t xcrPkru = bit(9);

constexpr std::uint64_t miscFastStrings = bit(0);
constexpr std::uint64_t miscMwait = bit(18);

constexpr std::uint64_t eflagsFixed = bit(1);
constexpr std::uint64_t eflagsVm = bit(17);
constexpr std::uint64_t eflagsBits = 0x3f7fd7;

} // namespace

CpuContract CpuContract::basic()
{
    CpuContract contract;
    contract.cr4 = cr4Basic;
    contract.efer = eferBasic | eferFfxsr;
    contract.miscEnable = miscFastStrings | miscMwait;
    return contract;
}

CpuContract CpuContract::wide()
{
    CpuContract contract = basic();
    contract.cr4 |= cr4Umip | cr4Fsgsbase | cr4Pcide | cr4Osxsave | cr4Smep |
                    cr4Smap | cr4Pke;
    contract.efer |= eferAutoIbrs;
    contract.xcr0 = xcrX87 | xcrSse | xcrAvx | xcrAvx512 | xcrPkru;
    contract.specCtrl = 0x87;        // IBRS, STIBP, SSBD, PSFD
    contract.miscEnable |= 0x1'1888; // TCC, EMON, BTS, PEBS, EIST
    contract.physicalBits = 52;
    contract.x2apic = true;
    contract.waitPackage = true;
    contract.tsxControl = true;
    return contract;
}

} // namespace airlock::handover

namespace airlock::handover::rules
{

namespace
{

// Segment flags: the second word of a descriptor (target/i386/cpu.h DESC_*).
constexpr std::uint64_t descBig = bit(22);
constexpr std::uint64_t descLong = bit(21);
constexpr std::uint64_t descPresent = bit(15);
constexpr std::uint64_t descCodeData = bit(12);
constexpr std::uint64_t descCode = bit(11);
constexpr unsigned descTypeShift = 8;
constexpr unsigned descDplShift = 13;

enum SegmentIndex : std::size_t
{
    es,
    cs,
    ss,
    ds,
    fs,
    gs,
};

// Hidden flags (target/i386/cpu.h HF_*).
constexpr std::uint64_t hfCpl = 3;
constexpr std::uint64_t hfInhibitIrq = bit(3);
constexpr std::uint64_t hfCs32 = bit(4);
constexpr std::uint64_t hfSs32 = bit(5);
constexpr std::uint64_t hfAddseg = bit(6);
constexpr std::uint64_t hfPe = bit(7);
constexpr std::uint64_t hfMpEmTs = bit(9) | bit(10) | bit(11);
constexpr std::uint64_t hfLma = bit(14);
constexpr std::uint64_t hfCs64 = bit(15);
constexpr std::uint64_t hfOsfxsr = bit(22);
constexpr std::uint64_t hfSmap = bit(23);
constexpr std::uint64_t hfIobpt = bit(24);
constexpr std::uint64_t hfUmip = bit(27);
constexpr std::uint64_t hfAvxEn = bit(28);
/** TF, IOPL, RF, VM and AC lie where eflags has them. */
constexpr std::uint64_t hfOfEflags =
    bit(8) | 3U << 12 | bit(16) | bit(17) | bit(18);

/** The registers that most rules look at. */
struct Mode
{
    explicit Mode(const Subject& subject)
        : cr0(subject["env.cr[0]"]), cr4(subject["env.cr[4]"]),
          efer(subject["env.efer"]), eflags(subject["env.eflags"]),
          protect((cr0 & cr0Pe) != 0), paging((cr0 & cr0Pg) != 0),
          longMode((efer & eferLma) != 0), virtual86((eflags & eflagsVm) != 0)
    {}

    std::uint64_t cr0;
    std::uint64_t cr4;
    std::uint64_t efer;
    std::uint64_t eflags;
    bool protect;
    bool paging;
    bool longMode;
    bool virtual86;
};

struct Segment
{
    Segment(const Subject& subject, SegmentIndex index)
    {
        const Rows& segs = std::as_const(subject.state).rows("env.segs");
        selector = segs.at(index, "selector");
        base = segs.at(index, "base");
        flags = segs.at(index, "flags");
    }

    std::uint64_t dpl() const { return flags >> descDplShift & 3; }

    std::uint64_t selector;
    std::uint64_t base;
    std::uint64_t flags;
};

bool isCanonical(std::uint64_t address)
{
    constexpr unsigned unusedBits = 16; // 48-bit addresses: no LA57
    return static_cast<std::uint64_t>(
               static_cast<std::int64_t>(address << unusedBits) >>
               unusedBits) == address;
}

void canonical(const Subject& subject, std::string_view field,
               std::uint64_t address)
{
    subject.require(isCanonical(address), field, address,
                    "is not a canonical address");
}

std::uint64_t reservedPhysical(const Environment& env)
{
    return ~0ULL << env.cpu.physicalBits;
}

void controlRegisters(const Subject& subject, const Mode& mode)
{
    const CpuContract& allowed = subject.env.cpu;
    subject.onlyBits("env.cr[0]", cr0Bits);
    subject.require((mode.cr0 & cr0Et) != 0, "env.cr[0]", mode.cr0,
                    "lacks ET, which is always set");
    subject.require(!mode.paging || mode.protect, "env.cr[0]", mode.cr0,
                    "has paging without protection");
    subject.require((mode.cr0 & cr0Nw) == 0 || (mode.cr0 & cr0Cd) != 0,
                    "env.cr[0]", mode.cr0, "has NW without CD");
    subject.onlyBits("env.cr[3]", ~reservedPhysical(subject.env));
    subject.onlyBits("env.cr[4]", allowed.cr4);
    subject.require((mode.cr4 & cr4Pcide) == 0 || mode.longMode, "env.cr[4]",
                    mode.cr4, "has PCIDE outside long mode");
    // SVME is in no contract: no nested virtualisation.
    subject.onlyBits("env.efer", allowed.efer);
    subject.require(mode.longMode ==
                        (mode.paging && (mode.efer & eferLme) != 0),
                    "env.efer", mode.efer, "has LMA against LME and paging");
    subject.require(!mode.longMode || (mode.cr4 & cr4Pae) != 0, "env.cr[4]",
                    mode.cr4, "lacks PAE in long mode");
    // A20 is the boot machine's; the production machine has no gate.
    subject.same("env.a20_mask");
}

/** XCR0 as xsetbv lets it be (SDM volume 1, 13.3). */
void extendedState(const Subject& subject)
{
    const std::uint64_t allowed = subject.env.cpu.xcr0;
    const std::uint64_t xcr0 = subject["env.xcr0"];
    subject.onlyBits("env.xcr0", allowed);
    const std::uint64_t avx512 = xcr0 & xcrAvx512;
    subject.require(
        (xcr0 & xcrX87) != 0 &&
            ((xcr0 & xcrAvx) == 0 || (xcr0 & xcrSse) != 0) &&
            (avx512 == 0 || (avx512 == xcrAvx512 && (xcr0 & xcrAvx) != 0)),
        "env.xcr0", xcr0, "is a combination that xsetbv refuses");
    subject.onlyBits("env.xstate_bv", allowed | xcrX87 | xcrSse);
    subject.onlyBits("env.mxcsr", 0xffff);
    subject.onlyBits("env.fptag_vmstate", 0xff);
}

void flagsAndAddresses(const Subject& subject, const Mode& mode)
{
    subject.onlyBits("env.eflags", eflagsBits);
    subject.require((mode.eflags & eflagsFixed) != 0, "env.eflags", mode.eflags,
                    "lacks bit 1, which is always set");
    subject.require(!mode.virtual86 || (mode.protect && !mode.longMode),
                    "env.eflags", mode.eflags,
                    "has VM outside 32-bit protected mode");
    for (std::string_view field :
         {"env.eip", "env.lstar", "env.cstar", "env.kernelgsbase",
          "env.sysenter_esp", "env.sysenter_eip"})
    {
        canonical(subject, field, subject[field]);
    }
}

void systemSegments(const Subject& subject)
{
    constexpr std::uint64_t ldtType = 2;
    const auto typeOf = [](std::uint64_t flags) {
        return flags >> descTypeShift & 0x1f;
    };
    const Record& tr = std::as_const(subject.state).record("env.tr");
    // A task state segment, 16, 32 or 64 bits, free or busy.
    const std::uint64_t type = typeOf(tr.number("flags"));
    subject.require(
        (tr.number("flags") & descPresent) == 0 || (type & ~0xaULL) == 1,
        "env.tr.flags", tr.number("flags"), "is no task state segment");
    const Record& ldt = std::as_const(subject.state).record("env.ldt");
    subject.require((ldt.number("flags") & descPresent) == 0 ||
                        typeOf(ldt.number("flags")) == ldtType,
                    "env.ldt.flags", ldt.number("flags"),
                    "is no local descriptor table");
    for (std::string_view name : {"env.tr", "env.ldt", "env.gdt", "env.idt"})
    {
        const Record& segment = std::as_const(subject.state).record(name);
        const std::string field(name);
        canonical(subject, field + ".base", segment.number("base"));
        subject.onlyBits(field + ".selector", segment.number("selector"),
                         0xffff);
    }
    for (std::string_view name : {"env.gdt", "env.idt"})
    {
        const Record& table = std::as_const(subject.state).record(name);
        subject.onlyBits(std::string(name) + ".limit", table.number("limit"),
                         0xffff);
    }
}

void segments(const Subject& subject, const Mode& mode)
{
    const Rows& segs = std::as_const(subject.state).rows("env.segs");
    for (std::size_t i = 0; i < segs.size(); ++i)
    {
        const std::string field = element("env.segs", i);
        subject.onlyBits(field + ".selector", segs.at(i, "selector"), 0xffff);
        canonical(subject, field + ".base", segs.at(i, "base"));
    }
    const Segment code(subject, cs);
    constexpr std::uint64_t needed = descPresent | descCodeData | descCode;
    subject.require(!mode.protect || mode.virtual86 ||
                        (code.flags & needed) == needed,
                    "env.segs[1].flags", code.flags, "is no code segment");
    subject.require(!mode.longMode || (code.flags & (descLong | descBig)) !=
                                          (descLong | descBig),
                    "env.segs[1].flags", code.flags,
                    "is 64-bit and 32-bit code at once");
    systemSegments(subject);
}

/** hflags with the bits that may be one or zero. */
struct HiddenFlags
{
    std::uint64_t value = 0;
    std::uint64_t either = 0;
};

/** Size of code and stack, as cpu_x86_load_seg_cache() in target/i386/cpu.h
 * and x86_update_hflags() work them out. In 64-bit code the two differ about
 * SS32, which means nothing there. */
HiddenFlags segmentFlags(const Subject& subject, const Mode& mode)
{
    const Segment code(subject, cs);
    const Segment stack(subject, ss);
    HiddenFlags flags;
    if (mode.longMode && (code.flags & descLong) != 0)
    {
        flags.value = hfCs32 | hfCs64;
        flags.either = hfSs32;
        return flags;
    }
    flags.value |= (code.flags & descBig) != 0 ? hfCs32 : 0;
    flags.value |= (stack.flags & descBig) != 0 ? hfSs32 : 0;
    const bool bases = (Segment(subject, ds).base | Segment(subject, es).base |
                        stack.base) != 0;
    const bool addseg =
        !mode.protect || mode.virtual86 || (code.flags & descBig) == 0 || bases;
    flags.value |= addseg ? hfAddseg : 0;
    return flags;
}

/** Whether DR7 has a breakpoint on I/O (tcg/system/bpt_helper.c:
 * hw_breakpoint_insert()); loading works the flag out again. */
bool ioBreakpoint(std::uint64_t dr7)
{
    constexpr std::uint64_t onIo = 2;
    for (unsigned i = 0; i < 4; ++i)
    {
        const bool enabled = (dr7 >> (2 * i) & 3) != 0;
        if (enabled && (dr7 >> (16 + 4 * i) & 3) == onIo)
        {
            return true;
        }
    }
    return false;
}

/** What the flags have to be: TCG translates code by them without looking at
 * the registers again. SMM, guest mode and SVME are never among them. */
HiddenFlags hiddenFlags(const Subject& subject, const Mode& mode)
{
    HiddenFlags flags = segmentFlags(subject, mode);
    flags.value |= Segment(subject, ss).dpl() & hfCpl;
    flags.value |= mode.protect ? hfPe : 0;
    flags.value |= mode.cr0 << 8 & hfMpEmTs;
    flags.value |= (mode.cr4 & cr4Osfxsr) != 0 ? hfOsfxsr : 0;
    flags.value |= mode.longMode ? hfLma : 0;

    std::uint64_t tcgOnly = 0;
    tcgOnly |= (mode.cr4 & cr4Smap) != 0 ? hfSmap : 0;
    tcgOnly |= (mode.cr4 & cr4Umip) != 0 ? hfUmip : 0;
    const bool avx = (mode.cr4 & cr4Osxsave) != 0 &&
                     (~subject["env.xcr0"] & (xcrSse | xcrAvx)) == 0;
    tcgOnly |= avx ? hfAvxEn : 0;
    (subject.env.accelerator == Accelerator::Tcg ? flags.value
                                                 : flags.either) |= tcgOnly;

    flags.either |= hfInhibitIrq | (mode.eflags & hfOfEflags);
    const auto& dr = std::as_const(subject.state).numbers("env.dr");
    flags.either |= ioBreakpoint(dr[7]) ? hfIobpt : 0;
    return flags;
}

void checkHiddenFlags(const Subject& subject, const Mode& mode)
{
    const HiddenFlags flags = hiddenFlags(subject, mode);
    const std::uint64_t value = subject["env.hflags"];
    subject.require((value & ~flags.either) == (flags.value & ~flags.either),
                    "env.hflags", value,
                    "does not follow from the CPU's registers");
    // GIF and VGIF are always set without SVM; the CPU may serve an NMI.
    constexpr std::uint64_t servingNmi = bit(2);
    subject.require(
        ((subject["env.hflags2"] ^ subject.reference.number("env.hflags2")) &
         ~servingNmi) == 0,
        "env.hflags2", subject["env.hflags2"],
        "is not that of a CPU without SVM");
}

/** Nothing of a hypervisor inside the guest, no system management mode. */
void noNestedState(const Subject& subject)
{
    for (std::string_view field :
         {"env.vm_hsave", "env.vm_vmcb", "env.tsc_offset", "env.intercept",
          "env.intercept_cr_read", "env.intercept_cr_write",
          "env.intercept_dr_read", "env.intercept_dr_write",
          "env.intercept_exceptions"})
    {
        subject.require(subject[field] == 0, field, subject[field],
                        "is state of nested virtualisation");
    }
    subject.same("env.smbase");
    // CR8 under TCG lives in these (cpu_pre_save(): v_tpr is int_ctl's TPR).
    constexpr std::uint64_t taskPriority = 0xf;
    subject.onlyBits("env.v_tpr", taskPriority);
    if (const Record* svm =
            std::as_const(subject.state).subsection("cpu/svm_guest"))
    {
        subject.onlyBits("cpu/svm_guest/env.int_ctl",
                         svm->number("env.int_ctl"), taskPriority);
    }
}

void debugRegisters(const Subject& subject)
{
    constexpr std::uint64_t always1 = 0xfffe07f0; // of DR6, whatever the model
    const Numbers& dr = std::as_const(subject.state).numbers("env.dr");
    subject.onlyBits("env.dr[6]", dr[6], 0xffffffff);
    subject.onlyBits("env.dr[7]", dr[7], 0xffffffff);
    subject.require((dr[6] & always1) == always1, "env.dr[6]", dr[6],
                    "lacks bits that are always set");
    // KVM's DR4 and DR5 are copies, TCG's are not used.
    subject.require(dr[4] == 0 || dr[4] == dr[6], "env.dr[4]", dr[4],
                    "is not DR6");
    subject.require(dr[5] == 0 || dr[5] == dr[7], "env.dr[5]", dr[5],
                    "is not DR7");
}

bool isMemoryType(std::uint64_t type)
{
    constexpr std::array<std::uint64_t, 5> mtrr{0, 1, 4, 5, 6};
    return std::ranges::find(mtrr, type) != mtrr.end();
}

void memoryTypes(const Subject& subject)
{
    constexpr std::uint64_t uncachedMinus = 7; // PAT only
    for (unsigned i = 0; i < 8; ++i)
    {
        const std::uint64_t type = subject["env.pat"] >> (8 * i) & 0xff;
        subject.require(isMemoryType(type) || type == uncachedMinus, "env.pat",
                        subject["env.pat"], "has a reserved memory type");
    }
    const Numbers& fixed =
        std::as_const(subject.state).numbers("env.mtrr_fixed");
    for (std::size_t i = 0; i < fixed.size() * 8; ++i)
    {
        subject.require(isMemoryType(fixed[i / 8] >> (8 * (i % 8)) & 0xff),
                        element("env.mtrr_fixed", i / 8), fixed[i / 8],
                        "has a reserved memory type");
    }
    const std::uint64_t type = subject["env.mtrr_deftype"];
    subject.onlyBits("env.mtrr_deftype", 0xcff);
    subject.require(isMemoryType(type & 0xff), "env.mtrr_deftype", type,
                    "has a reserved memory type");
}

/** Under KVM, QEMU saves the masks with all bits set that lie above the CPU's
 * physical address and below bit 52, and takes them off on loading
 * (target/i386/kvm/kvm.c: kvm_get_msrs(), kvm_put_msrs()). */
std::uint64_t rangeMaskBits(const Environment& env)
{
    constexpr std::uint64_t widest = ~0ULL >> 12;
    const std::uint64_t address =
        env.accelerator == Accelerator::Kvm ? widest : ~reservedPhysical(env);
    return address & ~0x7ffULL;
}

void memoryRanges(const Subject& subject)
{
    const std::uint64_t reserved = reservedPhysical(subject.env);
    const Rows& ranges = std::as_const(subject.state).rows("env.mtrr_var");
    for (std::size_t i = 0; i < ranges.size(); ++i)
    {
        const std::string field = element("env.mtrr_var", i);
        const std::uint64_t base = ranges.at(i, "base");
        subject.onlyBits(field + ".base", base, ~(reserved | 0xf00));
        subject.require(isMemoryType(base & 0xff), field + ".base", base,
                        "has a reserved memory type");
        subject.onlyBits(field + ".mask", ranges.at(i, "mask"),
                         rangeMaskBits(subject.env));
    }
}

/** Machine checks: the guest can switch banks on and off and clear them; only
 * the host's monitor could put an error in. */
void machineCheck(const Subject& subject)
{
    constexpr std::uint64_t allOn = ~0ULL;
    constexpr std::uint64_t gartOff = ~bit(10); // Linux on AMD, bank 4
    constexpr std::size_t perBank = 4;          // control, status, addr, misc
    subject.same("env.mcg_cap");
    subject.onlyBits("env.mcg_status", 7);
    subject.require(
        subject["env.mcg_ctl"] == 0 || subject["env.mcg_ctl"] == allOn,
        "env.mcg_ctl", subject["env.mcg_ctl"], "is neither all on nor all off");
    const Numbers& banks =
        std::as_const(subject.state).numbers("env.mce_banks");
    for (std::size_t i = 0; i < banks.size(); ++i)
    {
        const bool control = i % perBank == 0;
        subject.require(banks[i] == 0 || (control && (banks[i] == allOn ||
                                                      banks[i] == gartOff)),
                        element("env.mce_banks", i), banks[i],
                        "is not what a guest can have set");
    }
}

/** Events between instructions. Under TCG these fields are KVM's and stay as
 * they were at reset. */
void pendingEvents(const Subject& subject)
{
    if (subject.env.accelerator == Accelerator::Tcg)
    {
        for (std::string_view field :
             {"env.interrupt_injected", "env.exception_nr",
              "env.soft_interrupt", "env.nmi_injected", "env.nmi_pending",
              "env.has_error_code", "env.sipi_vector", "env.mp_state"})
        {
            subject.same(field);
        }
        return;
    }
    const auto injected =
        static_cast<std::int64_t>(subject["env.interrupt_injected"]);
    subject.require(injected >= -1 && injected <= 0xff,
                    "env.interrupt_injected", subject["env.interrupt_injected"],
                    "is no interrupt vector");
    constexpr std::int64_t nmi = 2;
    const auto exception =
        static_cast<std::int64_t>(subject["env.exception_nr"]);
    subject.require(exception >= -1 && exception <= 31 && exception != nmi,
                    "env.exception_nr", subject["env.exception_nr"],
                    "is no exception");
    for (std::string_view field : {"env.soft_interrupt", "env.nmi_injected",
                                   "env.nmi_pending", "env.has_error_code"})
    {
        subject.atMost(field, 1);
    }
    subject.atMost("env.sipi_vector", 0xff);
    constexpr std::uint64_t lastState = 4; // KVM_MP_STATE_SIPI_RECEIVED
    subject.atMost("env.mp_state", lastState);
}

/** Where the kernel may write for KVM: RAM, and what lies below 1 MiB behind
 * the firmware's shadow. SeaBIOS leaves its clock there, and an operating
 * system that knows nothing of KVM leaves SeaBIOS's. */
bool inRamOrShadow(const Environment& env, std::uint64_t address,
                   std::uint64_t size)
{
    constexpr AddressRange shadow{0xc0000, 0x100000};
    return inRam(env, address, size) ||
           (shadow.contains(address, size) && env.ramLow >= shadow.end);
}

/** KVM's shared structures: an address in RAM and an enable bit. The kernel
 * writes there, so the whole structure has to be in RAM. TCG has none. */
void sharedWithKvm(const Subject& subject, std::string_view field,
                   std::uint64_t value, std::uint64_t lowBits,
                   std::uint64_t size)
{
    if (value == 0)
    {
        return;
    }
    subject.require(subject.env.accelerator == Accelerator::Kvm, field, value,
                    "is set, and there is no KVM");
    subject.require(inRamOrShadow(subject.env, value & ~lowBits, size), field,
                    value, "does not point into RAM");
}

void timeStamps(const Subject& subject)
{
    const auto limit = static_cast<std::uint64_t>(subject.env.maxUptimeNs) * 8;
    subject.atMost("env.tsc", limit);
    subject.onlyBits("env.tsc_aux", 0xffffffff);
    sharedWithKvm(subject, "env.system_time_msr",
                  subject["env.system_time_msr"], 1, 32);
    sharedWithKvm(subject, "env.wall_clock_msr", subject["env.wall_clock_msr"],
                  0, 12);
}

/** One number of a subsection that may be there. */
struct Optional
{
    std::string_view subsection;
    std::string_view field;
    std::uint64_t bits;
};

/** MSRs in subsections with only a mask. What is not in this list or below has
 * no table and never gets here. */
void maskedMsrs(const Subject& subject)
{
    const CpuContract& allowed = subject.env.cpu;
    constexpr std::uint64_t all = ~0ULL;
    const std::initializer_list<Optional> list{
        {"cpu/poll_control_msr", "env.poll_control_msr", 1},
        {"cpu/fpop_ip_dp", "env.fpop", 0x7ff},
        {"cpu/msr_tscdeadline", "env.tsc_deadline", allowed.x2apic ? all : 0},
        {"cpu/msr_ia32_misc_enable", "env.msr_ia32_misc_enable",
         allowed.miscEnable},
        {"cpu/msr_ia32_feature_control", "env.msr_ia32_feature_control", 1},
        {"cpu/xss", "env.xss", allowed.xss},
        {"cpu/umwait", "env.umwait", allowed.waitPackage ? 0xfffffffd : 0},
        {"cpu/pkru", "env.pkru", (allowed.cr4 & cr4Pke) != 0 ? 0xffffffff : 0},
        {"cpu/spec_ctrl", "env.spec_ctrl", allowed.specCtrl},
        {"cpu/virt_ssbd", "env.virt_ssbd", allowed.specCtrl & bit(2)},
        {"cpu/msr_tsx_ctrl", "env.tsx_ctrl", allowed.tsxControl ? 3U : 0U},
        // McStatusWrEn, TscFreqSel and what KVM ignores.
        {"cpu/msr_hwcr", "env.msr_hwcr",
         bit(3) | bit(6) | bit(8) | bit(18) | bit(24)},
    };
    for (const Optional& msr : list)
    {
        if (const Record* sub =
                std::as_const(subject.state).subsection(msr.subsection))
        {
            subject.onlyBits(std::string(msr.subsection) + "/" +
                                 std::string(msr.field),
                             sub->number(msr.field), msr.bits);
        }
    }
}

/** TSC_ADJUST may be negative, but as little absurd as the TSC. */
void tscAdjust(const Subject& subject)
{
    const Record* sub =
        std::as_const(subject.state).subsection("cpu/msr_tsc_adjust");
    if (!sub)
    {
        return;
    }
    const std::int64_t limit = subject.env.maxUptimeNs * 8;
    const std::int64_t adjust = sub->signedNumber("env.tsc_adjust");
    subject.require(adjust >= -limit && adjust <= limit,
                    "cpu/msr_tsc_adjust/env.tsc_adjust",
                    sub->number("env.tsc_adjust"), "is absurd");
}

void sharedMsrs(const Subject& subject)
{
    struct Shared
    {
        Optional msr; ///< bits: flags below the address
        std::uint64_t size;
    };
    const std::initializer_list<Shared> list{
        {{"cpu/async_pf_msr", "env.async_pf_en_msr", 0xf}, 64},
        {{"cpu/async_pv_eoi_msr", "env.pv_eoi_en_msr", 1}, 4},
        {{"cpu/steal_time_msr", "env.steal_time_msr", 1}, 64},
    };
    for (const auto& [msr, size] : list)
    {
        if (const Record* sub =
                std::as_const(subject.state).subsection(msr.subsection))
        {
            sharedWithKvm(subject,
                          std::string(msr.subsection) + "/" +
                              std::string(msr.field),
                          sub->number(msr.field), msr.bits, size);
        }
    }
    if (const Record* vector =
            std::as_const(subject.state).subsection("cpu/async_pf_int_msr"))
    {
        subject.require(subject.env.accelerator == Accelerator::Kvm,
                        "cpu/async_pf_int_msr", "is set, and there is no KVM");
        subject.onlyBits("cpu/async_pf_int_msr/env.async_pf_int_msr",
                         vector->number("env.async_pf_int_msr"), 0xff);
    }
}

/** What belongs to the machine and not to the guest: the same on both. */
void machineMsrs(const Subject& subject)
{
    constexpr std::array<std::pair<std::string_view, std::string_view>, 2> list{
        {{"cpu/tsc_khz", "env.tsc_khz"},
         {"cpu/amd_tsc_scale_msr", "env.amd_tsc_scale_msr"}}};
    for (const auto& [name, field] : list)
    {
        subject.samePresence(name);
        const Record* here = std::as_const(subject.state).subsection(name);
        const Record* expected = subject.reference.subsection(name);
        subject.require(!here || here->number(field) == expected->number(field),
                        std::string(name) + "/" + std::string(field),
                        "differs from the production machine's");
    }
}

/** Vector registers and page directory pointers that the mode cannot have. */
void optionalRegisters(const Subject& subject, const Mode& mode)
{
    if (std::as_const(subject.state).subsection("cpu/avx512"))
    {
        subject.require((subject.env.cpu.xcr0 & xcrAvx512) == xcrAvx512,
                        "cpu/avx512", "the CPU model has no AVX-512");
    }
    const Record* pdptrs =
        std::as_const(subject.state).subsection("cpu/pdptrs");
    if (!pdptrs)
    {
        return;
    }
    subject.require(mode.paging && !mode.longMode && (mode.cr4 & cr4Pae) != 0,
                    "cpu/pdptrs", "is there without PAE paging");
    const std::uint64_t reserved = reservedPhysical(subject.env) | 0x1e6;
    const Numbers& entries = pdptrs->numbers("env.pdptrs");
    for (std::size_t i = 0; i < entries.size(); ++i)
    {
        subject.require((entries[i] & 1) == 0 || (entries[i] & reserved) == 0,
                        "cpu/pdptrs/" + element("env.pdptrs", i), entries[i],
                        "has reserved bits");
    }
}

/** The boot machine's SMIs were its firmware's; a CPU of the production
 * machine has never had one. */
void dropSmiCount(Subject& subject)
{
    std::erase_if(subject.state.subsections(), [](const Record& sub) {
        return sub.schema().name == "cpu/msr_smi_count";
    });
}

} // namespace

// Hardware interrupts and polling are what a stopped CPU may have waiting;
// SMI, INIT, SIPI and a machine check are not (target/i386/cpu.h
// CPU_INTERRUPT_*). exception_index is a reason for leaving the loop, never an
// exception to deliver: its error code would be missing.
void cpuCommon(Subject& subject)
{
    constexpr std::uint64_t hard = 0x2;
    constexpr std::uint64_t exitTb = 0x4;
    constexpr std::uint64_t poll = 0x10;
    constexpr std::uint64_t nmi = 0x200;
    subject.atMost("halted", 1);
    subject.onlyBits("interrupt_request", hard | exitTb | poll | nmi);
    if (const Record* sub = std::as_const(subject.state)
                                .subsection("cpu_common/exception_index"))
    {
        // EXCP_INTERRUPT, EXCP_HLT, EXCP_HALTED (include/exec/cpu-common.h)
        constexpr std::array<std::uint64_t, 3> known{0x10000, 0x10001, 0x10003};
        const std::uint64_t index = sub->number("exception_index");
        subject.require(std::ranges::find(known, index) != known.end(),
                        "exception_index", index, "is refused");
    }
}

void cpu(Subject& subject)
{
    const Mode mode(subject);
    controlRegisters(subject, mode);
    extendedState(subject);
    flagsAndAddresses(subject, mode);
    segments(subject, mode);
    checkHiddenFlags(subject, mode);
    noNestedState(subject);
    debugRegisters(subject);
    memoryTypes(subject);
    memoryRanges(subject);
    machineCheck(subject);
    pendingEvents(subject);
    timeStamps(subject);
    maskedMsrs(subject);
    tscAdjust(subject);
    sharedMsrs(subject);
    machineMsrs(subject);
    optionalRegisters(subject, mode);
    dropSmiCount(subject);
}

} // namespace airlock::handover::rules
