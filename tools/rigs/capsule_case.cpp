#include "tools/rigs/capsule_case.hpp"

#include "bootsrv/capsule/enrol.hpp"
#include "common/file.hpp"

namespace airlock::rig
{

namespace
{

constexpr const char* cleanImage = "clean.efi";
constexpr std::size_t maxKey = 1U << 20;

} // namespace

capsule::CapsuleParts partsOf(const std::filesystem::path& images,
                              std::uint64_t stagingSize)
{
    capsule::CapsuleParts out;
    out.images = {images / cleanImage, images / "dirty.efi"};
    out.keys = capsule::keysIn(images / "site");
    out.stagingSize = stagingSize;
    return out;
}

trust::Key policyKeyOf(const std::filesystem::path& images)
{
    const std::filesystem::path file = images / "site" / "policy.key";
    return trust::privateKeyFromPem(readTextFile(file, maxKey), file.string());
}

void enrol(capsule::Capsule& capsule, const capsule::CapsuleOptions& options,
           const std::filesystem::path& images,
           machine::EnrolmentRequest request, Milliseconds bootTime)
{
    const trust::Key key = policyKeyOf(images);
    capsule::enrollCapsule(capsule, options, {key, images / cleanImage, 1},
                           std::move(request), bootTime);
}

} // namespace airlock::rig
