#include "tests/switch/switch_rig.hpp"

#include "common/error.hpp"
#include "common/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>

#include <algorithm>

namespace airlock::test
{

namespace
{

constexpr std::uint16_t markType = 0x88B6; // the other one for local use

void stayOnThisCpu()
{
    const std::size_t current = static_cast<unsigned>(::sched_getcpu());
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(current, &one);
    ::sched_setaffinity(0, sizeof(one), &one);
}

void writeText(const std::string& path, std::string_view text)
{
    UniqueFd fd = openFile(path, O_WRONLY);
    writeAll(fd.get(), asBytes(text));
}

} // namespace

const std::vector<std::string>& SwitchRig::ports()
{
    static const std::vector<std::string> names = {"boot0", "boot1", "prod0",
                                                   "prod1"};
    return names;
}

SwitchRig::SwitchRig()
{
    stayOnThisCpu();
    cables_.run([] {
        // The far ends are silent by themselves.
        writeText("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        writeText("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        // Each one is another machine: it answers for itself only.
        writeText("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
    });
    switch_.enter();
    setIpv6("default", false);
    runTool({"ip", "link", "set", "lo", "up"});
    runTool({"ip", "link", "add", "br0", "type", "bridge"});
    runTool({"ip", "link", "set", "br0", "up"});
    for (const std::string& port : ports())
    {
        plug(port);
    }
    Json links = parseJson(runTool({"ip", "-j", "link"}), "ip");
    for (const Json& link : links)
    {
        ownAddresses_.insert(mac(link["address"].get<std::string>()));
    }
}

SwitchRig::~SwitchRig()
{
    home_.enter();
}

void SwitchRig::setIpv6(const std::string& port, bool on)
{
    writeText("/proc/sys/net/ipv6/conf/" + port + "/disable_ipv6",
              on ? "0" : "1");
}

void SwitchRig::plug(const std::string& port)
{
    runTool({"ip", "link", "add", port, "type", "veth", "peer", "name", port,
             "netns", cables_.path()});
    runTool({"ip", "link", "set", port, "master", "br0"});
    setIpv6(port, port.starts_with("boot"));
    cables_.run([&] {
        runTool({"ip", "link", "set", port, "up"});
        ends_[port] = std::make_unique<CableEnd>(port);
    });
    runTool({"ip", "link", "set", port, "up"});
}

std::map<std::string, std::vector<Caught>> SwitchRig::collect()
{
    // The same thread on the same CPU: a mark comes after all that was sent.
    static const MacAddress marker = mac("06:00:00:00:00:0f");
    std::string text = fmt::format("mark {}", ++marks_);
    for (const char* port : {"prod0", "prod1"})
    {
        end(port).send(frame(everybody, marker, markType, text));
    }
    std::map<std::string, std::vector<Caught>> out;
    std::size_t marks = 0;
    Deadline deadline(std::chrono::seconds(5));
    while (marks < 2)
    {
        if (deadline.passed())
        {
            throw TimedOut("the rig's own frames do not come through");
        }
        for (const std::string& port : ports())
        {
            for (Caught& caught : end(port).take())
            {
                if (port.starts_with("prod") &&
                    ownAddresses_.contains(caught.source()))
                {
                    continue; // the switch's IP stack may speak there
                }
                bool ours = caught.source() == marker;
                bool latest =
                    ours &&
                    std::search(caught.bytes.begin() + 14, caught.bytes.end(),
                                text.begin(), text.end()) != caught.bytes.end();
                marks += latest && port.starts_with("prod") ? 1U : 0U;
                if (!ours)
                {
                    out[port].push_back(std::move(caught));
                }
            }
        }
        ::poll(nullptr, 0, 1);
    }
    return out;
}

std::map<std::string, std::vector<Caught>>
SwitchRig::through(const std::string& port, ByteView frame)
{
    end(port).send(frame);
    return collect();
}

namespace
{

/** What kernels say of their groups whenever they like: IGMP, MLD. */
bool isOfGroups(const Caught& caught)
{
    constexpr std::uint16_t ipv4 = 0x0800;
    constexpr std::uint16_t ipv6 = 0x86DD;
    std::string to = caught.destination().text();
    return (caught.type() == ipv4 && to.starts_with("01:00:5e")) ||
           (caught.type() == ipv6 && to.starts_with("33:33"));
}

} // namespace

std::size_t
SwitchRig::count(const std::map<std::string, std::vector<Caught>>& seen,
                 const std::vector<std::string>& except)
{
    std::size_t out = 0;
    for (const auto& [port, frames] : seen)
    {
        bool counts =
            std::find(except.begin(), except.end(), port) == except.end();
        if (counts)
        {
            out +=
                frames.size() - static_cast<std::size_t>(
                                    std::ranges::count_if(frames, isOfGroups));
        }
    }
    return out;
}

void SwitchRig::settle()
{
    collect();
}

std::string
SwitchRig::describe(const std::map<std::string, std::vector<Caught>>& seen)
{
    std::string out;
    for (const auto& [port, frames] : seen)
    {
        for (const Caught& caught : frames)
        {
            out += fmt::format("{}: {} -> {} type {:04x}\n", port,
                               caught.source().text(),
                               caught.destination().text(), caught.type());
        }
    }
    return out;
}

} // namespace airlock::test
