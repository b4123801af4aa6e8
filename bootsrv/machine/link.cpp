#include "bootsrv/machine/link.hpp"

#include "common/error.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <memory>
#include <optional>

namespace airlock::machine
{

namespace
{

struct Free
{
    void operator()(nl_sock* socket) const { nl_socket_free(socket); }
    void operator()(nl_msg* message) const { nlmsg_free(message); }
};

void check(int result, const std::string& doing)
{
    if (result < 0)
    {
        throw Error(doing + ": " + nl_geterror(result));
    }
}

/** Flags under `change` are set as in `flags`. */
void changeLink(const std::string& nic, unsigned flags, unsigned change,
                const std::optional<MacAddress>& address)
{
    const std::string doing = "cannot change the network card " + nic;
    ifinfomsg header{};
    header.ifi_index = static_cast<int>(::if_nametoindex(nic.c_str()));
    header.ifi_flags = flags;
    header.ifi_change = change;
    if (header.ifi_index == 0)
    {
        throwErrno(doing);
    }
    std::unique_ptr<nl_sock, Free> socket(nl_socket_alloc());
    std::unique_ptr<nl_msg, Free> message(
        nlmsg_alloc_simple(RTM_NEWLINK, NLM_F_REQUEST));
    if (!socket || !message)
    {
        throw Error(doing + ": no memory");
    }
    check(nl_connect(socket.get(), NETLINK_ROUTE), doing);
    check(nlmsg_append(message.get(), &header, sizeof header, NLMSG_ALIGNTO),
          doing);
    if (address)
    {
        check(nla_put(message.get(), IFLA_ADDRESS,
                      static_cast<int>(address->bytes.size()),
                      address->bytes.data()),
              doing);
    }
    // Waits for the kernel's answer.
    check(nl_send_sync(socket.get(), message.release()), doing);
}

} // namespace

void setAddress(const std::string& nic, const MacAddress& address)
{
    setUp(nic, false);
    changeLink(nic, 0, 0, address);
}

void setUp(const std::string& nic, bool up)
{
    changeLink(nic, up ? unsigned{IFF_UP} : 0U, IFF_UP, std::nullopt);
}

MacAddress addressOf(const std::string& nic)
{
    UniqueFd fd = openFile("/sys/class/net/" + nic + "/address", O_RDONLY);
    const Bytes text = readToEnd(fd.get(), 64, nic);
    auto out =
        MacAddress::parse(std::string(text.begin(), text.end()).substr(0, 17));
    if (!out)
    {
        throw Error("the network card " + nic + " has no Ethernet address");
    }
    return *out;
}

} // namespace airlock::machine
