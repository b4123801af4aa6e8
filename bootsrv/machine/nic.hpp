#pragma once

#include "common/mac_address.hpp"

#include <memory>
#include <string>

struct nl_sock;

namespace airlock::machine
{

/** What a boot host's interface has while nobody may know it: the address that
 * is on no list (step 608 of FIG. 6). */
inline constexpr MacAddress genericAddress{{0x02, 0, 0, 0, 0, 0x01}};

/** The one interface of a boot host, through rtnetlink. Every change waits for
 * the kernel's acknowledgement. Throws Error; addresses are not in the texts,
 * for they are secret. Not shared between threads. */
class Nic
{
  public:
    explicit Nic(const std::string& name);
    ~Nic();
    Nic(const Nic&) = delete;
    Nic& operator=(const Nic&) = delete;

    const std::string& name() const { return name_; }
    int index() const { return index_; }

    /** Takes it down, gives it this address and takes it up. IPv6 says nothing
     * by itself afterwards. */
    void come(const MacAddress& address);
    /** Takes it down and gives it the generic address. */
    void leave();
    bool carrier() const;

    /** "10.9.0.2/24"; no error when it is there. */
    void addIp(const std::string& address);
    void addRoute(const std::string& gateway);
    /** Tells the neighbours which address has this IP now: theirs is of an
     * earlier epoch (gratuitous ARP, unsolicited neighbour advertisement). */
    void announce(const std::string& address, const MacAddress& mac);

  private:
    struct Free
    {
        void operator()(nl_sock* socket) const;
    };
    void set(bool up, const MacAddress* address);
    void quietIpv6() const;

    std::string name_;
    int index_;
    std::unique_ptr<nl_sock, Free> socket_;
};

} // namespace airlock::machine
