#include "tools/rigs/net_namespace.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <exception>
#include <thread>

namespace airlock::rig
{

namespace
{

constexpr const char* own = "/proc/thread-self/ns/net";

void inThread(const std::function<void()>& action)
{
    std::exception_ptr error;
    std::thread([&] {
        try
        {
            action();
        }
        catch (...)
        {
            error = std::current_exception();
        }
    }).join();
    if (error)
    {
        std::rethrow_exception(error);
    }
}

} // namespace

NetNamespace::NetNamespace()
{
    inThread([this] {
        if (::unshare(CLONE_NEWNET) != 0)
        {
            throwErrno("cannot make a network namespace");
        }
        fd_ = openFile(own, O_RDONLY);
    });
}

NetNamespace NetNamespace::current()
{
    return NetNamespace(openFile(own, O_RDONLY));
}

void NetNamespace::run(const std::function<void()>& action) const
{
    inThread([&] {
        enter();
        action();
    });
}

void NetNamespace::enter() const
{
    if (::setns(fd_.get(), CLONE_NEWNET) != 0)
    {
        throwErrno("cannot enter a network namespace");
    }
}

std::string NetNamespace::path() const
{
    return fmt::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
}

MacAddress addressOf(const std::string& link)
{
    const Json all =
        parseJson(runTool({"ip", "-j", "link", "show", link}), "ip");
    const auto out =
        MacAddress::parse(all.at(0).at("address").get<std::string>());
    if (!out)
    {
        throw Error(link + " has no Ethernet address");
    }
    return *out;
}

} // namespace airlock::rig
