#include "devmodel/handover/schema_tables/tables.hpp"
#include "tests/unit/admit_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// The vCPU's rules. The recorded guest is a Linux in 64-bit mode, in its idle
// loop, on a CPU model without XSAVE, under TCG.

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::addSubsection;
using airlock::test::Guest;
using airlock::test::Spoil;
using testing::HasSubstr;

constexpr std::uint64_t bit(unsigned n)
{
    return 1ULL << n;
}
constexpr std::uint64_t notCanonical = 0x0000800000000000;

using Change = std::function<void(Record&)>;
using Before = std::function<void(Guest&)>;

Change set(const char* field, std::uint64_t value)
{
    return [=](Record& s) { s.number(field) = value; };
}
Change flip(const char* field, std::uint64_t bits)
{
    return [=](Record& s) { s.number(field) ^= bits; };
}
Change setElement(const char* field, std::size_t index, std::uint64_t value)
{
    return [=](Record& s) { s.numbers(field).at(index) = value; };
}
Change setRow(const char* field, std::size_t row, const char* column,
              std::uint64_t value)
{
    return [=](Record& s) {
        Rows& rows = s.rows(field);
        rows.at(row, rows.column(column)) = value;
    };
}
Change setIn(const char* record, const char* field, std::uint64_t value)
{
    return [=](Record& s) { s.record(record).number(field) = value; };
}
/** A subsection with one number. */
Change add(const char* subsection, const char* field, std::uint64_t value)
{
    return [=](Record& s) {
        std::erase_if(s.subsections(), [&](const Record& sub) {
            return sub.schema().name == subsection;
        });
        addSubsection(s, subsection).number(field) = value;
    };
}
Before wide()
{
    return [](Guest& guest) { guest.env.cpu = CpuContract::wide(); };
}
Before kvm()
{
    return [](Guest& guest) { guest.env.accelerator = Accelerator::Kvm; };
}

// Segments 0 to 5 are ES, CS, SS, DS, FS, GS.
constexpr std::size_t cs = 1;
constexpr std::size_t ss = 2;
constexpr std::uint64_t longMode = bit(8) | bit(10);
constexpr std::uint64_t hfLongBits = bit(14) | bit(15);
constexpr std::uint64_t hfSs32 = bit(5);
constexpr std::uint64_t code32 = 0xcf9b00;

/** The guest as a 32-bit kernel with PAE would be. */
void make32Bit(Record& s)
{
    s.number("env.efer") &= ~longMode;
    setRow("env.segs", cs, "flags", code32)(s);
    s.number("env.hflags") = (s.number("env.hflags") & ~hfLongBits) | hfSs32;
    for (const char* field : {"env.eip", "env.sysenter_eip"})
    {
        s.number(field) &= 0xffffffff;
    }
}
Before in32Bit()
{
    return [](Guest& guest) { guest.change("cpu", make32Bit); };
}

/** For the first vCPU, or another one. */
Spoil cpu(const char* name, const char* expected, Change change,
          Before before = {}, std::uint32_t instance = 0)
{
    return {name,
            "cpu",
            std::string("cpu/") + std::to_string(instance) + ": " + expected,
            std::move(change),
            instance,
            std::move(before)};
}

TEST(Cpu, UntouchedGuestsAreAdmitted)
{
    Guest one("guest-1cpu", 512ULL << 20, 1);
    EXPECT_EQ(one.refused(), "");
    Guest two;
    EXPECT_EQ(two.refused(), "");
    for (const auto& accelerator : {Accelerator::Tcg, Accelerator::Kvm})
    {
        two.env.accelerator = accelerator;
        EXPECT_EQ(two.refused(), "");
    }
    two.env.cpu = CpuContract::wide();
    EXPECT_EQ(two.refused(), "");
}

class Cpus : public test::Spoiled
{};

TEST_P(Cpus, Refuses)
{
    refuses();
}

INSTANTIATE_TEST_SUITE_P(
    Control, Cpus,
    testing::Values(
        cpu("Cr0Reserved", "env.cr[0]: 0x80150033 has bits",
            flip("env.cr[0]", bit(20))),
        cpu("Cr0WithoutEt", "env.cr[0]: 0x80050023 lacks ET",
            flip("env.cr[0]", bit(4))),
        cpu("PagingWithoutProtection",
            "env.cr[0]: 0x80050032 has paging without protection",
            flip("env.cr[0]", bit(0))),
        cpu("NotWriteThroughWithCache",
            "env.cr[0]: 0xa0050033 has NW without CD",
            flip("env.cr[0]", bit(29))),
        cpu("Cr3BeyondPhysical", "env.cr[3]: 0x10000002ea0000 has bits",
            flip("env.cr[3]", bit(52))),
        cpu("Vmxe", "env.cr[4]: 0x26b0 has bits", flip("env.cr[4]", bit(13))),
        cpu("SmapOfAnotherModel", "env.cr[4]: 0x2006b0 has bits",
            flip("env.cr[4]", bit(21))),
        cpu("La57", "env.cr[4]: 0x16b0 has bits", flip("env.cr[4]", bit(12)),
            wide()),
        cpu("PcideOutsideLongMode",
            "env.cr[4]: 0x206b0 has PCIDE outside long mode",
            flip("env.cr[4]", bit(17)),
            [](Guest& guest) {
                wide()(guest);
                in32Bit()(guest);
            }),
        cpu("Svme", "env.efer: 0x1d01 has bits", flip("env.efer", bit(12)),
            wide()),
        cpu("LongModeWithoutPaging",
            "env.efer: 0xd01 has LMA against LME and paging",
            flip("env.cr[0]", bit(31))),
        cpu("LongModeEnabledNotActive",
            "env.efer: 0x901 has LMA against LME and paging",
            flip("env.efer", bit(10))),
        cpu("LongModeWithoutPae", "env.cr[4]: 0x690 lacks PAE in long mode",
            flip("env.cr[4]", bit(5))),
        cpu("A20Gate", "env.a20_mask: 0xffffffffffefffff differs",
            flip("env.a20_mask", bit(20))),
        cpu("SecondCpu", "env.cr[0]: 0x80050023 lacks ET",
            flip("env.cr[0]", bit(4)), {}, 1)),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Extended, Cpus,
    testing::Values(
        cpu("AvxOfAnotherModel", "env.xcr0: 0x7 has bits", set("env.xcr0", 7)),
        cpu("AmxTiles", "env.xcr0: 0x60003 has bits", set("env.xcr0", 0x60003),
            wide()),
        cpu("WithoutX87", "env.xcr0: 0x0 is a combination", set("env.xcr0", 0)),
        cpu("AvxWithoutSse", "env.xcr0: 0x5 is a combination",
            set("env.xcr0", 5), wide()),
        cpu("PartOfAvx512", "env.xcr0: 0x27 is a combination",
            set("env.xcr0", 0x27), wide()),
        cpu("Avx512WithoutAvx", "env.xcr0: 0xe3 is a combination",
            set("env.xcr0", 0xe3), wide()),
        cpu("StateThatIsNotSaved", "env.xstate_bv: 0x200 has bits",
            set("env.xstate_bv", 0x200)),
        cpu("Mxcsr", "env.mxcsr: 0x10000 has bits", set("env.mxcsr", 0x10000)),
        cpu("FpuTags", "env.fptag_vmstate: 0x100 has bits",
            set("env.fptag_vmstate", 0x100)),
        cpu("Avx512Registers", "cpu/avx512: the CPU model has no AVX-512",
            [](Record& s) { addSubsection(s, "cpu/avx512"); })),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    FlagsAndAddresses, Cpus,
    testing::Values(
        cpu("FlagsReserved", "env.eflags: 0x21a has bits",
            flip("env.eflags", bit(3))),
        cpu("FlagsWithoutBit1", "env.eflags: 0x210 lacks bit 1",
            flip("env.eflags", bit(1))),
        cpu("Virtual86InLongMode", "env.eflags: 0x20212 has VM outside",
            flip("env.eflags", bit(17))),
        cpu("Eip", "env.eip: 0x800000000000 is not a canonical address",
            set("env.eip", notCanonical)),
        cpu("Lstar", "env.lstar: 0x800000000000 is not a canonical address",
            set("env.lstar", notCanonical)),
        cpu("Cstar", "env.cstar: 0x800000000000 is not a canonical address",
            set("env.cstar", notCanonical)),
        cpu("KernelGs", "env.kernelgsbase: 0x800000000000 is not a canonical",
            set("env.kernelgsbase", notCanonical)),
        cpu("SysenterEsp", "env.sysenter_esp: 0x800000000000 is not a canon",
            set("env.sysenter_esp", notCanonical)),
        cpu("SysenterEip", "env.sysenter_eip: 0x800000000000 is not a canon",
            set("env.sysenter_eip", notCanonical))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Segments, Cpus,
    testing::Values(
        cpu("Selector", "env.segs[3].selector: 0x10000 has bits",
            setRow("env.segs", 3, "selector", 0x10000)),
        cpu("Base", "env.segs[4].base: 0x800000000000 is not a canonical",
            setRow("env.segs", 4, "base", notCanonical)),
        cpu("DataAsCode", "env.segs[1].flags: 0xcf9300 is no code segment",
            setRow("env.segs", cs, "flags", 0xcf9300)),
        cpu("CodeNotPresent", "env.segs[1].flags: 0xaf1b00 is no code segment",
            setRow("env.segs", cs, "flags", 0xaf1b00)),
        cpu("LongAndBig",
            "env.segs[1].flags: 0xef9b00 is 64-bit and 32-bit code at once",
            setRow("env.segs", cs, "flags", 0xef9b00)),
        cpu("Task", "env.tr.flags: 0x8200 is no task state segment",
            setIn("env.tr", "flags", 0x8200)),
        cpu("Local", "env.ldt.flags: 0x8900 is no local descriptor table",
            setIn("env.ldt", "flags", 0x8900)),
        cpu("TaskBase", "env.tr.base: 0x800000000000 is not a canonical",
            setIn("env.tr", "base", notCanonical)),
        cpu("GdtBase", "env.gdt.base: 0x800000000000 is not a canonical",
            setIn("env.gdt", "base", notCanonical)),
        cpu("TaskSelector", "env.tr.selector: 0x10040 has bits",
            setIn("env.tr", "selector", 0x10040)),
        cpu("GdtLimit", "env.gdt.limit: 0x10000 has bits",
            setIn("env.gdt", "limit", 0x10000)),
        cpu("IdtLimit", "env.idt.limit: 0x10000 has bits",
            setIn("env.idt", "limit", 0x10000))),
    test::spoilName);

// What QEMU keeps beside the registers, and translates code by.
INSTANTIATE_TEST_SUITE_P(
    Hidden, Cpus,
    testing::Values(
        cpu("UserAsKernel", "env.hflags: 0x40c2b3 does not follow",
            flip("env.hflags", 3)),
        cpu("KernelAsUser", "env.hflags: 0x40c2b0 does not follow",
            setRow("env.segs", ss, "flags", 0xcff300)),
        cpu("CodeSize", "env.hflags: 0x4042b0 does not follow",
            flip("env.hflags", bit(15))),
        cpu("Protection", "env.hflags: 0x40c230 does not follow",
            flip("env.hflags", bit(7))),
        cpu("TaskSwitched", "env.hflags: 0x40cab0 does not follow",
            flip("env.hflags", bit(11))),
        cpu("InLongMode", "env.hflags: 0x4082b0 does not follow",
            flip("env.hflags", bit(14))),
        cpu("SystemManagement", "env.hflags: 0x48c2b0 does not follow",
            flip("env.hflags", bit(19))),
        cpu("SvmEnabled", "env.hflags: 0x50c2b0 does not follow",
            flip("env.hflags", bit(20))),
        cpu("GuestMode", "env.hflags: 0x60c2b0 does not follow",
            flip("env.hflags", bit(21))),
        cpu("Smap", "env.hflags: 0xc0c2b0 does not follow",
            flip("env.hflags", bit(23))),
        cpu("SmapNotTaken", "env.hflags: 0x40c2b0 does not follow",
            flip("env.cr[4]", bit(21)), wide()),
        cpu("Umip", "env.hflags: 0x840c2b0 does not follow",
            flip("env.hflags", bit(27))),
        cpu("Avx", "env.hflags: 0x1040c2b0 does not follow",
            flip("env.hflags", bit(28))),
        cpu("Breakpoint", "env.hflags: 0x140c2b0 does not follow",
            flip("env.hflags", bit(24))),
        cpu("Trap", "env.hflags: 0x40c3b0 does not follow",
            flip("env.hflags", bit(8))),
        cpu("SmmInsideNmi", "env.hflags2: 0x111 is not that of a CPU",
            flip("env.hflags2", bit(4))),
        cpu("NestedPaging", "env.hflags2: 0x141 is not that of a CPU",
            flip("env.hflags2", bit(6)))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(SystemManagement, Cpus,
                         testing::Values(cpu("Base",
                                             "env.smbase: 0xa0000 differs",
                                             set("env.smbase", 0xa0000))),
                         test::spoilName);

/** Each field of the SVM state. */
class NestedField : public testing::TestWithParam<const char*>
{};

TEST_P(NestedField, IsRefused)
{
    Guest guest;
    guest.change("cpu", set(GetParam(), 1));
    EXPECT_THAT(guest.refused(),
                HasSubstr(std::string(GetParam()) +
                          ": 0x1 is state of nested virtualisation"));
}

INSTANTIATE_TEST_SUITE_P(
    Cpu, NestedField,
    testing::Values("env.vm_hsave", "env.vm_vmcb", "env.tsc_offset",
                    "env.intercept", "env.intercept_cr_read",
                    "env.intercept_cr_write", "env.intercept_dr_read",
                    "env.intercept_dr_write", "env.intercept_exceptions"),
    [](const auto& field) { return test::testName(field.param); });

INSTANTIATE_TEST_SUITE_P(
    TaskPriority, Cpus,
    testing::Values(
        cpu("Virtual", "env.v_tpr: 0x10 has bits", set("env.v_tpr", 0x10)),
        cpu("VirtualInterrupt", "cpu/svm_guest/env.int_ctl: 0x100 has bits",
            add("cpu/svm_guest", "env.int_ctl", 0x100))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Debug, Cpus,
    testing::Values(
        cpu("Dr6High", "env.dr[6]: 0x1ffff0ff0 has bits",
            setElement("env.dr", 6, 0x1ffff0ff0)),
        cpu("Dr7High", "env.dr[7]: 0x100000400 has bits",
            setElement("env.dr", 7, 0x100000400)),
        cpu("Dr6Fixed", "env.dr[6]: 0x0 lacks bits that are always set",
            setElement("env.dr", 6, 0)),
        cpu("Dr4", "env.dr[4]: 0x1 is not DR6", setElement("env.dr", 4, 1)),
        cpu("Dr5", "env.dr[5]: 0x1 is not DR7", setElement("env.dr", 5, 1))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Memory, Cpus,
    testing::Values(cpu("PageAttributes",
                        "env.pat: 0x200 has a reserved memory type",
                        set("env.pat", 0x200)),
                    cpu("FixedRange",
                        "env.mtrr_fixed[10]: 0x700000000000000 has a res",
                        setElement("env.mtrr_fixed", 10, 0x700000000000000)),
                    cpu("DefaultBits", "env.mtrr_deftype: 0xd06 has bits",
                        set("env.mtrr_deftype", 0xd06)),
                    cpu("DefaultType", "env.mtrr_deftype: 0xc02 has a reserved",
                        set("env.mtrr_deftype", 0xc02)),
                    cpu("RangeBeyondPhysical",
                        "env.mtrr_var[0].base: 0x200000000000 has bits",
                        setRow("env.mtrr_var", 0, "base", bit(45))),
                    cpu("RangeType", "env.mtrr_var[7].base: 0x3 has a reserved",
                        setRow("env.mtrr_var", 7, "base", 3)),
                    cpu("RangeMask", "env.mtrr_var[1].mask: 0x1 has bits",
                        setRow("env.mtrr_var", 1, "mask", 1))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    MachineCheck, Cpus,
    testing::Values(
        cpu("Capability", "env.mcg_cap: 0x100010b differs",
            flip("env.mcg_cap", 1)),
        cpu("Status", "env.mcg_status: 0x8 has bits", set("env.mcg_status", 8)),
        cpu("Control", "env.mcg_ctl: 0x1 is neither all on nor all off",
            set("env.mcg_ctl", 1)),
        cpu("BankControl", "env.mce_banks[4]: 0x5 is not what a guest can",
            setElement("env.mce_banks", 4, 5)),
        cpu("BankStatus",
            "env.mce_banks[1]: 0x8000000000000000 is not what a guest can",
            setElement("env.mce_banks", 1, bit(63)))),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Events, Cpus,
    testing::Values(
        cpu("InjectedUnderTcg", "env.interrupt_injected: 0x20 differs",
            set("env.interrupt_injected", 0x20)),
        cpu("ExceptionUnderTcg", "env.exception_nr: 0xe differs",
            set("env.exception_nr", 14)),
        cpu("SoftUnderTcg", "env.soft_interrupt: 0x1 differs",
            set("env.soft_interrupt", 1)),
        cpu("NmiUnderTcg", "env.nmi_injected: 0x1 differs",
            set("env.nmi_injected", 1)),
        cpu("NmiPendingUnderTcg", "env.nmi_pending: 0x1 differs",
            set("env.nmi_pending", 1)),
        cpu("ErrorCodeUnderTcg", "env.has_error_code: 0x1 differs",
            set("env.has_error_code", 1)),
        cpu("SipiUnderTcg", "env.sipi_vector: 0x1 differs",
            set("env.sipi_vector", 1)),
        cpu("StateUnderTcg", "env.mp_state: 0x3 differs",
            set("env.mp_state", 3)),
        cpu("Injected", "env.interrupt_injected: 0x100 is no interrupt vector",
            set("env.interrupt_injected", 0x100), kvm()),
        cpu("InjectedNegative",
            "env.interrupt_injected: 0xfffffffffffffffe is no",
            set("env.interrupt_injected", ~1ULL), kvm()),
        cpu("Exception", "env.exception_nr: 0x20 is no exception",
            set("env.exception_nr", 32), kvm()),
        cpu("NmiAsException", "env.exception_nr: 0x2 is no exception",
            set("env.exception_nr", 2), kvm()),
        cpu("NmiTwice", "env.nmi_pending: 0x2 is out of range",
            set("env.nmi_pending", 2), kvm()),
        cpu("Sipi", "env.sipi_vector: 0x100 is out of range",
            set("env.sipi_vector", 0x100), kvm()),
        cpu("State", "env.mp_state: 0x5 is out of range",
            set("env.mp_state", 5), kvm())),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Time, Cpus,
    testing::Values(
        cpu("Tsc", "env.tsc: 0x8000000000000000 is out of range",
            set("env.tsc", bit(63))),
        cpu("TscAux", "env.tsc_aux: 0x100000000 has bits",
            set("env.tsc_aux", bit(32))),
        cpu("TscAdjust",
            "cpu/msr_tsc_adjust/env.tsc_adjust: "
            "0x7fffffffffffffff is absurd",
            add("cpu/msr_tsc_adjust", "env.tsc_adjust", ~bit(63))),
        cpu("TscAdjustBack",
            "cpu/msr_tsc_adjust/env.tsc_adjust: 0x8000000000000000 is",
            add("cpu/msr_tsc_adjust", "env.tsc_adjust", bit(63))),
        cpu("TscFrequency",
            "cpu/tsc_khz: is not there on the production machine",
            add("cpu/tsc_khz", "env.tsc_khz", 1)),
        cpu("TscScale",
            "cpu/amd_tsc_scale_msr: is not there on the production machine",
            add("cpu/amd_tsc_scale_msr", "env.amd_tsc_scale_msr", 1)),
        cpu("ClockWithoutKvm",
            "env.system_time_msr: 0x1001 is set, and there "
            "is no KVM",
            set("env.system_time_msr", 0x1001)),
        cpu("ClockOutsideRam", "env.system_time_msr: 0xfee00001 does not point",
            set("env.system_time_msr", 0xfee00001), kvm()),
        cpu("ClockAcrossTheEnd", "env.system_time_msr: 0x1ffffff1 does not",
            set("env.system_time_msr", 0x1ffffff1), kvm()),
        cpu("WallClockOutsideRam", "env.wall_clock_msr: 0xfee00000 does not",
            set("env.wall_clock_msr", 0xfee00000), kvm())),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Registers, Cpus,
    testing::Values(
        cpu("PollControl", "cpu/poll_control_msr/env.poll_control_msr: 0x2",
            add("cpu/poll_control_msr", "env.poll_control_msr", 2)),
        cpu("FpuOpcode", "cpu/fpop_ip_dp/env.fpop: 0x800 has bits",
            add("cpu/fpop_ip_dp", "env.fpop", 0x800)),
        cpu("TscDeadline", "cpu/msr_tscdeadline/env.tsc_deadline: 0x1 has bits",
            add("cpu/msr_tscdeadline", "env.tsc_deadline", 1)),
        cpu("MiscEnable",
            "cpu/msr_ia32_misc_enable/env.msr_ia32_misc_enable: 0x400000000 "
            "has bits",
            add("cpu/msr_ia32_misc_enable", "env.msr_ia32_misc_enable",
                bit(34))),
        cpu("FeatureControl",
            "cpu/msr_ia32_feature_control/env.msr_ia32_feature_control: 0x5 "
            "has bits",
            add("cpu/msr_ia32_feature_control", "env.msr_ia32_feature_control",
                5)),
        cpu("SupervisorState", "cpu/xss/env.xss: 0x100 has bits",
            add("cpu/xss", "env.xss", 0x100)),
        cpu("UserWait", "cpu/umwait/env.umwait: 0x1 has bits",
            add("cpu/umwait", "env.umwait", 1)),
        cpu("UserWaitReserved", "cpu/umwait/env.umwait: 0x2 has bits",
            add("cpu/umwait", "env.umwait", 2), wide()),
        cpu("ProtectionKeys", "cpu/pkru/env.pkru: 0x1 has bits",
            add("cpu/pkru", "env.pkru", 1)),
        cpu("Speculation", "cpu/spec_ctrl/env.spec_ctrl: 0x1 has bits",
            add("cpu/spec_ctrl", "env.spec_ctrl", 1)),
        cpu("VirtualSpeculation", "cpu/virt_ssbd/env.virt_ssbd: 0x4 has bits",
            add("cpu/virt_ssbd", "env.virt_ssbd", 4)),
        cpu("Transactions", "cpu/msr_tsx_ctrl/env.tsx_ctrl: 0x1 has bits",
            add("cpu/msr_tsx_ctrl", "env.tsx_ctrl", 1)),
        cpu("HardwareConfiguration", "cpu/msr_hwcr/env.msr_hwcr: 0x1 has bits",
            add("cpu/msr_hwcr", "env.msr_hwcr", 1)),
        cpu("PageFaultsWithoutKvm",
            "cpu/async_pf_msr/env.async_pf_en_msr: 0x1001 is set, and",
            add("cpu/async_pf_msr", "env.async_pf_en_msr", 0x1001)),
        cpu("PageFaultsOutsideRam",
            "cpu/async_pf_msr/env.async_pf_en_msr: 0xfee00001 does not",
            add("cpu/async_pf_msr", "env.async_pf_en_msr", 0xfee00001), kvm()),
        cpu("PageFaultVectorWithoutKvm",
            "cpu/async_pf_int_msr: is set, and there is no KVM",
            add("cpu/async_pf_int_msr", "env.async_pf_int_msr", 0xf3)),
        cpu("PageFaultVector",
            "cpu/async_pf_int_msr/env.async_pf_int_msr: 0x100 has bits",
            add("cpu/async_pf_int_msr", "env.async_pf_int_msr", 0x100), kvm()),
        cpu("EndOfInterruptOutsideRam",
            "cpu/async_pv_eoi_msr/env.pv_eoi_en_msr: 0x20000001 does",
            add("cpu/async_pv_eoi_msr", "env.pv_eoi_en_msr", 0x20000001),
            kvm()),
        cpu("StealTimeOutsideRam",
            "cpu/steal_time_msr/env.steal_time_msr: 0x1fffffe1 does not",
            add("cpu/steal_time_msr", "env.steal_time_msr", 0x1fffffe1), kvm()),
        cpu("DirectoryPointersInLongMode",
            "cpu/pdptrs: is there without PAE paging",
            [](Record& s) { addSubsection(s, "cpu/pdptrs"); }),
        cpu(
            "DirectoryPointersReserved",
            "cpu/pdptrs/env.pdptrs[2]: 0x7 has reserved bits",
            [](Record& s) {
                addSubsection(s, "cpu/pdptrs").numbers("env.pdptrs")[2] = 7;
            },
            in32Bit())),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Common, Cpus,
    testing::Values(
        Spoil{"Halted", "cpu_common", "cpu_common/1: halted: 0x2 is out of",
              set("halted", 2), 1},
        Spoil{"SystemManagement", "cpu_common",
              "cpu_common/0: interrupt_request: 0x40 has bits",
              set("interrupt_request", 0x40)},
        Spoil{"Init", "cpu_common", "interrupt_request: 0x400 has bits",
              set("interrupt_request", 0x400)},
        Spoil{"Startup", "cpu_common", "interrupt_request: 0x800 has bits",
              set("interrupt_request", 0x800)},
        Spoil{"MachineCheck", "cpu_common",
              "interrupt_request: 0x1000 has bits",
              set("interrupt_request", 0x1000)},
        Spoil{"VirtualInterrupt", "cpu_common",
              "interrupt_request: 0x100 has bits",
              set("interrupt_request", 0x100)},
        Spoil{"Exception", "cpu_common", "exception_index: 0xe is refused",
              add("cpu_common/exception_index", "exception_index", 14)}),
    test::spoilName);

// --- What no CPU model here has ----------------------------------------------

/** A subsection as QEMU would write it, with nothing in it. */
Bytes header(std::string_view name)
{
    ByteWriter out;
    out.u8(0x05);
    out.u8(static_cast<std::uint8_t>(name.size()));
    out.text(name);
    out.be32(1);
    return out.release();
}

TEST(Cpu, StateOfWhatIsNotOfferedIsRefused)
{
    std::size_t refused = 0;
    for (const Subsection& sub : tables::cpu.subsections)
    {
        if (sub.schema)
        {
            continue;
        }
        Guest guest;
        Bytes& payload = Guest::find(guest.candidate, "cpu").payload;
        const Bytes extra = header(sub.name);
        payload.insert(payload.end(), extra.begin(), extra.end());
        EXPECT_THAT(guest.refused(),
                    HasSubstr("cpu/0: " + std::string(sub.name) +
                              "/: " + std::string(sub.refusal)));
        ++refused;
    }
    EXPECT_GE(refused, 15U);
}

// --- What a guest may do -----------------------------------------------------

TEST(CpuAdmitted, GuestsChoices)
{
    Guest guest;
    guest.change("cpu", [](Record& s) {
        s.number("env.eflags") |= bit(8); // TF, with or without its flag
        s.number("env.hflags2") |= bit(2);
        s.number("env.v_tpr") = 0xf;
        s.numbers("env.dr")[7] = 0x20402; // a breakpoint on a port
        s.number("env.mtrr_deftype") = 0;
        s.numbers("env.mce_banks")[16] = ~bit(10);
        s.number("env.xstate_bv") = 3;
        s.number("env.mxcsr") = 0xffff;
        add("cpu/poll_control_msr", "env.poll_control_msr", 0)(s);
        add("cpu/svm_guest", "env.int_ctl", 0xf)(s);
    });
    guest.change("cpu_common", [](Record& s) {
        s.number("interrupt_request") = 0x206;
        add("cpu_common/exception_index", "exception_index", 0x10001)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(CpuAdmitted, UserMode)
{
    Guest guest;
    guest.change("cpu", [](Record& s) {
        Rows& segs = s.rows("env.segs");
        segs.at(cs, segs.column("selector")) = 0x33;
        segs.at(cs, segs.column("flags")) = 0xaffb00;
        segs.at(ss, segs.column("selector")) = 0x2b;
        segs.at(ss, segs.column("flags")) = 0xcff300;
        s.number("env.hflags") |= 3;
        s.number("env.eip") = 0x7f0000001000;
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(CpuAdmitted, PageDirectoryPointersIn32BitMode)
{
    Guest guest;
    guest.change("cpu", make32Bit);
    guest.change("cpu", [](Record& s) {
        addSubsection(s, "cpu/pdptrs").numbers("env.pdptrs") = {0x1001, 0x2019,
                                                                0, 0x9e6};
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(CpuAdmitted, VectorsOfAWideModel)
{
    Guest guest;
    guest.env.cpu = CpuContract::wide();
    guest.change("cpu", [](Record& s) {
        s.number("env.cr[4]") |= bit(18) | bit(20) | bit(21);
        s.number("env.hflags") |= bit(23) | bit(28);
        s.number("env.xcr0") = 0xe7;
        s.number("env.xstate_bv") = 0xe7;
        addSubsection(s, "cpu/avx512").numbers("env.opmask_regs")[7] = ~0ULL;
        add("cpu/spec_ctrl", "env.spec_ctrl", 7)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(CpuAdmitted, SharedMemoryUnderKvm)
{
    Guest guest;
    guest.env.accelerator = Accelerator::Kvm;
    guest.change("cpu", [](Record& s) {
        s.number("env.system_time_msr") = 0x1fffffe1;
        s.number("env.wall_clock_msr") = 0x1000;
        s.number("env.interrupt_injected") = 0xec;
        s.number("env.exception_nr") = 14;
        s.number("env.has_error_code") = 1;
        add("cpu/async_pf_msr", "env.async_pf_en_msr", 0x100b)(s);
        add("cpu/async_pf_int_msr", "env.async_pf_int_msr", 0xf3)(s);
        add("cpu/steal_time_msr", "env.steal_time_msr", 0x2001)(s);
        add("cpu/async_pv_eoi_msr", "env.pv_eoi_en_msr", 0x3001)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

// As QEMU saves them under KVM, whatever the CPU's width.
TEST(CpuAdmitted, RangeMasksOfKvm)
{
    Guest guest;
    guest.change("cpu", setRow("env.mtrr_var", 0, "mask", 0xfffffc0000800));
    EXPECT_THAT(guest.refused(),
                HasSubstr("env.mtrr_var[0].mask: 0xfffffc0000800 has bits"));
    guest.env.accelerator = Accelerator::Kvm;
    EXPECT_EQ(guest.refused(), "");
}

// SeaBIOS's clock stays where SeaBIOS put it.
TEST(CpuAdmitted, ClockInTheFirmwaresShadow)
{
    Guest guest;
    guest.env.accelerator = Accelerator::Kvm;
    guest.change("cpu", set("env.system_time_msr", 0xf5001));
    EXPECT_EQ(guest.refused(), "");
    guest.change("cpu", set("env.system_time_msr", 0xa0001));
    EXPECT_THAT(guest.refused(), HasSubstr("does not point into RAM"));
}

TEST(CpuRewritten, CountOfSystemManagementInterruptsIsDropped)
{
    Guest guest;
    guest.change("cpu", add("cpu/msr_smi_count", "env.msr_smi_count", 0x123));
    EXPECT_EQ(guest.admitted("cpu").subsection("cpu/msr_smi_count"), nullptr);
}

} // namespace
