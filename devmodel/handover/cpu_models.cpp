#include "common/error.hpp"
#include "devmodel/handover/admit.hpp"

#include <algorithm>
#include <array>
#include <string>

// Which features QEMU's named CPU models have (target/i386/cpu.c:
// builtin_x86_defs), as far as a guest can switch them on.

namespace airlock::handover
{

namespace
{

enum class Vectors : std::uint8_t
{
    Sse,    ///< no XSAVE
    Avx,    ///< XSAVE, most with AVX or AVX2
    Avx512, ///< and protection keys
};

struct Model
{
    std::string_view name;
    Vectors vectors;
};

constexpr std::array<Model, 35> knownModels{{
    {"qemu64", Vectors::Sse},
    {"kvm64", Vectors::Sse},
    {"phenom", Vectors::Sse},
    {"pentium3", Vectors::Sse},
    {"coreduo", Vectors::Sse},
    {"n270", Vectors::Sse},
    {"core2duo", Vectors::Sse},
    {"Conroe", Vectors::Sse},
    {"Penryn", Vectors::Sse},
    {"Nehalem", Vectors::Sse},
    {"Westmere", Vectors::Sse},
    {"Denverton", Vectors::Avx},
    {"Snowridge", Vectors::Avx},
    {"Opteron_G1", Vectors::Sse},
    {"Opteron_G2", Vectors::Sse},
    {"Opteron_G3", Vectors::Sse},
    {"Opteron_G4", Vectors::Avx},
    {"Opteron_G5", Vectors::Avx},
    {"SandyBridge", Vectors::Avx},
    {"IvyBridge", Vectors::Avx},
    {"Haswell", Vectors::Avx},
    {"Broadwell", Vectors::Avx},
    {"Skylake-Client", Vectors::Avx},
    {"SierraForest", Vectors::Avx},
    {"EPYC", Vectors::Avx},
    {"EPYC-Rome", Vectors::Avx},
    {"EPYC-Milan", Vectors::Avx},
    {"Dhyana", Vectors::Avx},
    {"EPYC-Genoa", Vectors::Avx512},
    {"Skylake-Server", Vectors::Avx512},
    {"Cascadelake-Server", Vectors::Avx512},
    {"Cooperlake", Vectors::Avx512},
    {"Icelake-Server", Vectors::Avx512},
    {"SapphireRapids", Vectors::Avx512},
    {"GraniteRapids", Vectors::Avx512},
}};

/** "Skylake-Server" of "Skylake-Server-noTSX-IBRS-v2". */
std::string_view withoutVariant(std::string_view name)
{
    for (const std::string_view variant : {"-v", "-noTSX", "-IB"})
    {
        name = name.substr(0, name.find(variant));
    }
    return name;
}

CpuContract contractFor(Vectors vectors)
{
    constexpr std::uint64_t sseAndAvx = 7;
    constexpr std::uint64_t cr4Pke = 1U << 22;
    if (vectors == Vectors::Sse)
    {
        return CpuContract::basic();
    }
    CpuContract contract = CpuContract::wide();
    if (vectors == Vectors::Avx)
    {
        contract.xcr0 = sseAndAvx;
        contract.cr4 &= ~cr4Pke;
    }
    return contract;
}

} // namespace

CpuContract CpuContract::forModel(std::string_view name,
                                  Accelerator accelerator)
{
    const auto* model =
        std::ranges::find(knownModels, withoutVariant(name), &Model::name);
    if (model == knownModels.end())
    {
        throw Error("It is not known what guests can do with the CPU model '" +
                    std::string(name) + "': take another one");
    }
    CpuContract contract = contractFor(model->vectors);
    // KVM adds it to every model (kvm-cpu.c: kvm_default_props).
    contract.x2apic = contract.x2apic || accelerator == Accelerator::Kvm;
    return contract;
}

std::vector<std::string_view> CpuContract::models()
{
    std::vector<std::string_view> out;
    for (const Model& model : knownModels)
    {
        out.push_back(model.name);
    }
    return out;
}

} // namespace airlock::handover
