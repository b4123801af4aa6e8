#include "keep.hpp"

#include "common/deadline.hpp"
#include "common/error.hpp"
#include "common/socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <string>

namespace airlock::demo
{

namespace
{

constexpr std::size_t piece = 64U << 10;
constexpr Milliseconds sendTime = std::chrono::seconds(5);
/** From QEMU closing its lines to its end. */
constexpr Milliseconds endTime = std::chrono::seconds(2);
constexpr int trapPoll = 200; ///< milliseconds between two looks at the trap

UniqueFd listenAt(const std::filesystem::path& path)
{
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::string name = path.string();
    if (name.size() >= sizeof(address.sun_path))
    {
        throw Error("the path of the console's socket is too long: " + name);
    }
    std::copy(name.begin(), name.end(), address.sun_path);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd ||
        ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
               sizeof(address)) != 0 ||
        ::listen(fd.get(), 1) != 0)
    {
        throwErrno("cannot listen at " + name);
    }
    return fd;
}

} // namespace

Keeper::Keeper(Story& story, const std::filesystem::path& socket)
    : story_(story), listener_(listenAt(socket))
{}

void Keeper::tell(const std::string& text)
{
    if (client_)
    {
        sendAll(client_->get(), "\r\n[airlock] " + text + "\r\n",
                Deadline(sendTime));
    }
}

void Keeper::acceptClient()
{
    client_.emplace(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

void Keeper::fromClient()
{
    std::string text;
    try
    {
        receiveSome(client_->get(), text, piece,
                    Deadline(Milliseconds::zero()));
    }
    catch (const Error&)
    {
        client_.reset(); // it has gone; the next one may come
        return;
    }
    story_.production().machine().console().send(text);
}

void Keeper::fromGuest()
{
    std::string text;
    receiveSome(story_.production().machine().console().fd(), text, piece,
                Deadline(Milliseconds::zero()));
    try
    {
        if (client_)
        {
            sendAll(client_->get(), text, Deadline(sendTime));
        }
    }
    catch (const Error&)
    {
        client_.reset();
    }
}

/** False when the guest's QEMU has ended. */
bool Keeper::serveOnce()
{
    vm::Machine& machine = story_.production().machine();
    std::array<pollfd, 3> waits = {{
        {machine.console().fd(), POLLIN, 0},
        {client_ ? client_->get() : listener_.get(), POLLIN, 0},
        {machine.process().pidFd(), POLLIN, 0},
    }};
    ::poll(waits.data(), waits.size(), trapPoll);
    if (waits[2].revents != 0)
    {
        return false;
    }
    if (waits[0].revents != 0)
    {
        fromGuest();
    }
    if (waits[1].revents != 0)
    {
        client_ ? fromClient() : acceptClient();
    }
    return true;
}

void Keeper::bootTrapped()
{
    std::optional<vm::Trap> trap = story_.production().trap();
    if (!trap)
    {
        return;
    }
    tell("reset trapped (" + describe(*trap) +
         "), the guest boots on the full machine");
    story_.production().waitTrap(sendTime);
    story_.bootAgain(*trap);
    tell("the guest is back; press Enter");
}

void Keeper::run()
{
    try
    {
        while (serveOnce())
        {
            bootTrapped();
        }
    }
    catch (const Error&)
    {
        // A QEMU that ends closes its lines before its end can be seen.
        Process& qemu = story_.production().machine().process();
        qemu.wait(endTime);
        if (qemu.running())
        {
            throw;
        }
    }
}

} // namespace airlock::demo
