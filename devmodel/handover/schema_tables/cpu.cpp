#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

// cpu_common: hw/core/cpu-system.c vmstate_cpu_common.
// cpu: target/i386/machine.c vmstate_x86_cpu, TARGET_X86_64. Two names differ
// from QEMU's: where it uses env.xmm_regs for the low, the middle and the high
// parts of the vector registers, the later ones are env.ymmh_regs,
// env.zmmh_regs and env.hi16_zmm_regs here.

namespace airlock::handover::tables
{

namespace
{

constexpr std::uint32_t registers = 16; // CPU_NB_REGS

constexpr Field segmentFields[] = {
    u32("selector"),
    u64("base"),
    u32("limit"),
    u32("flags"),
};
constexpr Schema segment{"segment", 1, segmentFields};

// vmstate_fpreg holds only vmstate_fpreg_tmp.
constexpr Field fpregFields[] = {
    u64("tmp_mant"),
    u16("tmp_exp"),
};
constexpr Schema fpreg{"fpreg", 0, fpregFields};

constexpr Field xmmFields[] = {
    numbers("q", Encoding::U64, 2),
};
constexpr Schema xmmReg{"xmm_reg", 1, xmmFields};
constexpr Schema ymmhReg{"ymmh_reg", 1, xmmFields};
constexpr Field zmmhFields[] = {
    numbers("q", Encoding::U64, 4),
};
constexpr Schema zmmhReg{"zmmh_reg", 1, zmmhFields};
constexpr Field hi16ZmmFields[] = {
    numbers("q", Encoding::U64, 8),
};
constexpr Schema hi16ZmmReg{"hi16_zmm_reg", 1, hi16ZmmFields};

constexpr Field mtrrVarFields[] = {
    u64("base"),
    u64("mask"),
};
constexpr Schema mtrrVar{"mtrr_var", 1, mtrrVarFields};

// Subsections of one or a few MSRs, in the order of vmstate_x86_cpu.
constexpr Field asyncPfFields[] = {u64("env.async_pf_en_msr")};
constexpr Schema asyncPf{"cpu/async_pf_msr", 1, asyncPfFields};

constexpr Field asyncPfIntFields[] = {u64("env.async_pf_int_msr")};
constexpr Schema asyncPfInt{"cpu/async_pf_int_msr", 1, asyncPfIntFields};

constexpr Field pvEoiFields[] = {u64("env.pv_eoi_en_msr")};
constexpr Schema pvEoi{"cpu/async_pv_eoi_msr", 1, pvEoiFields};

constexpr Field stealTimeFields[] = {u64("env.steal_time_msr")};
constexpr Schema stealTime{"cpu/steal_time_msr", 1, stealTimeFields};

constexpr Field pollControlFields[] = {u64("env.poll_control_msr")};
constexpr Schema pollControl{"cpu/poll_control_msr", 1, pollControlFields};

constexpr Field fpopFields[] = {
    u16("env.fpop"),
    u64("env.fpip"),
    u64("env.fpdp"),
};
constexpr Schema fpop{"cpu/fpop_ip_dp", 1, fpopFields};

constexpr Field tscAdjustFields[] = {u64("env.tsc_adjust")};
constexpr Schema tscAdjust{"cpu/msr_tsc_adjust", 1, tscAdjustFields};

constexpr Field tscDeadlineFields[] = {u64("env.tsc_deadline")};
constexpr Schema tscDeadline{"cpu/msr_tscdeadline", 1, tscDeadlineFields};

constexpr Field miscEnableFields[] = {u64("env.msr_ia32_misc_enable")};
constexpr Schema miscEnable{"cpu/msr_ia32_misc_enable", 1, miscEnableFields};

constexpr Field featureControlFields[] = {
    u64("env.msr_ia32_feature_control"),
};
constexpr Schema featureControl{"cpu/msr_ia32_feature_control", 1,
                                featureControlFields};

constexpr Field avx512Fields[] = {
    numbers("env.opmask_regs", Encoding::U64, 8),
    structures("env.zmmh_regs", registers, zmmhReg),
    structures("env.hi16_zmm_regs", registers, hi16ZmmReg),
};
constexpr Schema avx512{"cpu/avx512", 1, avx512Fields};

constexpr Field xssFields[] = {u64("env.xss")};
constexpr Schema xss{"cpu/xss", 1, xssFields};

constexpr Field umwaitFields[] = {u32("env.umwait")};
constexpr Schema umwait{"cpu/umwait", 1, umwaitFields};

constexpr Field tscKhzFields[] = {i64("env.tsc_khz")};
constexpr Schema tscKhz{"cpu/tsc_khz", 1, tscKhzFields};

constexpr Field smiCountFields[] = {u64("env.msr_smi_count")};
constexpr Schema smiCount{"cpu/msr_smi_count", 1, smiCountFields};

constexpr Field pkruFields[] = {u32("env.pkru")};
constexpr Schema pkru{"cpu/pkru", 1, pkruFields};

constexpr Field specCtrlFields[] = {u64("env.spec_ctrl")};
constexpr Schema specCtrl{"cpu/spec_ctrl", 1, specCtrlFields};

constexpr Field tscScaleFields[] = {u64("env.amd_tsc_scale_msr")};
constexpr Schema tscScale{"cpu/amd_tsc_scale_msr", 1, tscScaleFields};

constexpr Field virtSsbdFields[] = {u64("env.virt_ssbd")};
constexpr Schema virtSsbd{"cpu/virt_ssbd", 1, virtSsbdFields};

constexpr Field svmGuestFields[] = {u32("env.int_ctl")};
constexpr Schema svmGuest{"cpu/svm_guest", 1, svmGuestFields};

constexpr Field tsxCtrlFields[] = {u32("env.tsx_ctrl")};
constexpr Schema tsxCtrl{"cpu/msr_tsx_ctrl", 1, tsxCtrlFields};

constexpr Field pdptrsFields[] = {numbers("env.pdptrs", Encoding::U64, 4)};
constexpr Schema pdptrs{"cpu/pdptrs", 1, pdptrsFields};

constexpr Field hwcrFields[] = {u64("env.msr_hwcr")};
constexpr Schema hwcr{"cpu/msr_hwcr", 1, hwcrFields};

constexpr Field exceptionIndexFields[] = {i32("exception_index")};
constexpr Schema exceptionIndex{"cpu_common/exception_index", 1,
                                exceptionIndexFields};

constexpr Field cpuCommonFields[] = {
    u32("halted"),
    u32("interrupt_request"),
};
constexpr Subsection cpuCommonSubsections[] = {
    admitted(exceptionIndex),
    refused("cpu_common/crash_occurred", "the guest has crashed"),
};

constexpr Field cpuFields[] = {
    numbers("env.regs", Encoding::U64, registers),
    u64("env.eip"),
    u64("env.eflags"),
    u32("env.hflags"),
    u16("env.fpuc"),
    u16("env.fpus_vmstate"),
    u16("env.fptag_vmstate"),
    mustBeZero(u16("env.fpregs_format_vmstate"),
               "is not the format that QEMU writes"),
    structures("env.fpregs", 8, fpreg),
    structures("env.segs", 6, segment),
    structure("env.ldt", segment),
    structure("env.tr", segment),
    structure("env.gdt", segment),
    structure("env.idt", segment),
    u32("env.sysenter_cs"),
    u64("env.sysenter_esp"),
    u64("env.sysenter_eip"),
    u64("env.cr[0]"),
    u64("env.cr[2]"),
    u64("env.cr[3]"),
    u64("env.cr[4]"),
    numbers("env.dr", Encoding::U64, 8),
    i32("env.a20_mask"),
    u32("env.mxcsr"),
    structures("env.xmm_regs", registers, xmmReg),
    u64("env.efer"),
    u64("env.star"),
    u64("env.lstar"),
    u64("env.cstar"),
    u64("env.fmask"),
    u64("env.kernelgsbase"),
    u32("env.smbase"),
    u64("env.pat"),
    u32("env.hflags2"),
    u64("env.vm_hsave"),
    u64("env.vm_vmcb"),
    u64("env.tsc_offset"),
    u64("env.intercept"),
    u16("env.intercept_cr_read"),
    u16("env.intercept_cr_write"),
    u16("env.intercept_dr_read"),
    u16("env.intercept_dr_write"),
    u32("env.intercept_exceptions"),
    u8("env.v_tpr"),
    numbers("env.mtrr_fixed", Encoding::U64, 11),
    u64("env.mtrr_deftype"),
    structures("env.mtrr_var", 8, mtrrVar),
    i32("env.interrupt_injected"),
    u32("env.mp_state"),
    u64("env.tsc"),
    i32("env.exception_nr"),
    u8("env.soft_interrupt"),
    u8("env.nmi_injected"),
    u8("env.nmi_pending"),
    u8("env.has_error_code"),
    u32("env.sipi_vector"),
    u64("env.mcg_cap"),
    u64("env.mcg_status"),
    u64("env.mcg_ctl"),
    numbers("env.mce_banks", Encoding::U64, 40),
    u64("env.tsc_aux"),
    u64("env.system_time_msr"),
    u64("env.wall_clock_msr"),
    u64("env.xcr0"),
    u64("env.xstate_bv"),
    structures("env.ymmh_regs", registers, ymmhReg),
};

constexpr std::string_view nested = "nested virtualisation is not offered";
constexpr std::string_view hyperv = "Hyper-V enlightenments are not offered";
constexpr std::string_view pmu = "performance counters are not offered";
constexpr std::string_view notOffered = "is not in any CPU model offered";

constexpr Subsection cpuSubsections[] = {
    refused("cpu/exception_info", nested),
    admitted(asyncPf),
    admitted(asyncPfInt),
    admitted(pvEoi),
    admitted(stealTime),
    admitted(pollControl),
    admitted(fpop),
    admitted(tscAdjust),
    admitted(tscDeadline),
    admitted(miscEnable),
    admitted(featureControl),
    refused("cpu/msr_architectural_pmu", pmu),
    refused("cpu/mpx", notOffered),
    refused("cpu/msr_hyperv_hypercall", hyperv),
    refused("cpu/msr_hyperv_vapic", hyperv),
    refused("cpu/msr_hyperv_time", hyperv),
    refused("cpu/msr_hyperv_crash", hyperv),
    refused("cpu/msr_hyperv_runtime", hyperv),
    refused("cpu/msr_hyperv_synic", hyperv),
    refused("cpu/msr_hyperv_stimer", hyperv),
    refused("cpu/msr_hyperv_reenlightenment", hyperv),
    admitted(avx512),
    admitted(xss),
    admitted(umwait),
    admitted(tscKhz),
    admitted(smiCount),
    admitted(pkru),
    refused("cpu/pkrs", notOffered),
    admitted(specCtrl),
    admitted(tscScale),
    refused("cpu/mcg_ext_ctl", notOffered),
    refused("cpu/intel_pt", pmu),
    admitted(virtSsbd),
    refused("cpu/svn_npt", nested),
    admitted(svmGuest),
    refused("cpu/nested_state", nested),
    refused("cpu/xen_vcpu", "Xen emulation is not offered"),
    admitted(tsxCtrl),
    refused("cpu/intel_sgx", notOffered),
    admitted(pdptrs),
    refused("cpu/msr_xfd", notOffered),
    admitted(hwcr),
    refused("cpu/fred", notOffered),
    refused("cpu/intel_amx_xtile", notOffered),
    refused("cpu/arch_lbr", pmu),
    refused("cpu/triple_fault", "a triple fault is a reset"),
};

} // namespace

const Schema cpuCommon{"cpu_common", 1, cpuCommonFields, cpuCommonSubsections};
const Schema cpu{"cpu", 12, cpuFields, cpuSubsections};

} // namespace airlock::handover::tables
