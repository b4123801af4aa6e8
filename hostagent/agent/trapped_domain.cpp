#include "hostagent/agent/trapped_domain.hpp"

#include "common/deadline.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <thread>

namespace airlock::host
{

namespace
{

/** For the three instructions of the stub. */
constexpr Milliseconds stubTime = std::chrono::seconds(10);
constexpr Milliseconds stubStep{10};
/** Of a path that is shown. */
constexpr std::size_t maxPath = 300;

std::string readText(QmpCommands& qmp, const std::string& path,
                     const char* property)
{
    Json value =
        qmp.execute("qom-get", {{"path", path}, {"property", property}});
    return JsonField(value, "qom-get").string();
}

} // namespace

UniqueFd openDomainMemory(const std::filesystem::path& path, int domainId)
{
    const std::string directory = path.parent_path().filename();
    if (!path.is_absolute() || path != path.lexically_normal() ||
        !directory.starts_with(std::to_string(domainId) + "-"))
    {
        throw Refused(fmt::format("memory of domain {}", domainId),
                      "QEMU says that it is in " +
                          plainText(path.string(), maxPath) +
                          ", which is in no directory of that domain");
    }
    // Step by step, and never by a link. Not openat2(): systemd's
    // RestrictSUIDSGID takes that away.
    UniqueFd at = openFile("/", O_PATH | O_DIRECTORY);
    for (const std::filesystem::path& part : path.parent_path().relative_path())
    {
        UniqueFd next(::openat(at.get(), part.c_str(),
                               O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!next)
        {
            throwErrno("cannot open " + path.string());
        }
        at = std::move(next);
    }
    return openRegularAt(at.get(), path.filename(), O_RDWR);
}

TrappedDomain::TrappedDomain(Domain& domain, const DomainSpec& spec)
    : domain_(domain), spec_(spec.guest())
{
    for (const DomainNic& nic : spec.nics)
    {
        nicIds_.push_back(nic.alias);
    }
}

int TrappedDomain::memory()
{
    if (!memory_)
    {
        std::string backend = readText(domain_, "/machine", "memory-backend");
        std::string path = readText(domain_, backend, "mem-path");
        memory_ = openDomainMemory(path, domain_.id());
        if (fileSize(memory_.get()) != spec_.memory)
        {
            throw Error(fmt::format(
                "the memory of domain {} is {} bytes in {}, not {}",
                domain_.name(), fileSize(memory_.get()), path, spec_.memory));
        }
    }
    return memory_.get();
}

std::optional<vm::Trap> TrappedDomain::trap()
{
    return vm::queryTrap(domain_).trap;
}

Bytes TrappedDomain::saveState()
{
    for (const std::string& id : nicIds_)
    {
        setLink(id, false);
    }
    return vm::saveDeviceState(domain_);
}

void TrappedDomain::loadState(ByteView state)
{
    vm::loadDeviceState(domain_, state);
}

void TrappedDomain::resume()
{
    // As it is now: an operator may have cut the guest off while it booted.
    std::set<std::string> down = nicsWithoutLink(domain_.xml());
    for (const std::string& id : nicIds_)
    {
        if (!down.contains(id))
        {
            setLink(id, true);
        }
    }
    if (domain_.state() == RunState::running)
    {
        // So libvirt thinks, and would refuse; tellAgain() says why.
        domain_.execute("cont");
    }
    else
    {
        domain_.resume();
    }
}

void TrappedDomain::tellAgain()
{
    domain_.execute("cont");
    Deadline deadline(stubTime);
    while (isRunning())
    {
        if (deadline.passed())
        {
            throw Error("domain " + domain_.name() +
                        " was trapped, and runs now");
        }
        std::this_thread::sleep_for(stubStep);
    }
}

bool TrappedDomain::isRunning()
{
    Json status = domain_.execute("query-status");
    return JsonField(status, "query-status").at("running").boolean();
}

void TrappedDomain::setLink(const std::string& id, bool up)
{
    domain_.execute("set_link", {{"name", id}, {"up", up}});
}

} // namespace airlock::host
