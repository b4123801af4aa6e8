#include "bootsrv/capsule/tap.hpp"

#include "common/error.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

#include <algorithm>

namespace airlock::capsule
{

UniqueFd openTap(const std::string& name)
{
    ifreq request = {};
    if (name.empty() || name.size() >= sizeof(request.ifr_name) ||
        ::if_nametoindex(name.c_str()) == 0)
    {
        throw Error("there is no network device '" + name +
                    "': make it first (ip tuntap add " + name +
                    " mode tap user USER) and make it a port of the switch");
    }
    UniqueFd out = openFile("/dev/net/tun", O_RDWR | O_NONBLOCK);
    std::copy(name.begin(), name.end(), std::begin(request.ifr_name));
    // Headers as virtio has them, with which QEMU need not work out checksums.
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(out.get(), TUNSETIFF, &request) != 0)
    {
        throwErrno("cannot use " + name +
                   " as a tap device: it is none, is not ours, or is in use");
    }
    return out;
}

} // namespace airlock::capsule
