#include "tools/switchd/fence.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::sw
{

namespace
{

constexpr const char* table = "airlock";
constexpr int early = -350;
constexpr int late = 350;
constexpr int portPriority = -350;

/** VLAN tags, whatever is in them. */
constexpr std::uint16_t tagTypes[] = {0x8100, 0x88A8, 0x9100};

const std::vector<std::string> families = {"bridge", "netdev"};
/** Sets of leases: interface and address; "talk": interfaces. */
const std::vector<std::string> leaseSets = {"live", "draining"};

Json in(const std::string& family)
{
    return {{"family", family}, {"table", table}};
}

Json add(const char* what, Json object)
{
    return {{"add", {{what, std::move(object)}}}};
}

Json named(const std::string& family, const std::string& name, Json more = {})
{
    Json out = in(family);
    out["name"] = name;
    out.update(more.is_null() ? Json::object() : more);
    return out;
}

Json meta(const char* key)
{
    return {{"meta", {{"key", key}}}};
}

Json ether(const char* field)
{
    return {{"payload", {{"protocol", "ether"}, {"field", field}}}};
}

Json match(Json left, Json right, const char* op = "==")
{
    return {
        {"match",
         {{"op", op}, {"left", std::move(left)}, {"right", std::move(right)}}}};
}

Json pair(Json a, Json b)
{
    return {{"concat", Json::array({std::move(a), std::move(b)})}};
}

const Json accept = {{"accept", nullptr}};
const Json drop = {{"drop", nullptr}};

/** A chain and the rules added to it. */
class Chain
{
  public:
    Chain(Json& commands, std::string family, std::string name, Json hook = {})
        : commands_(commands), family_(std::move(family)),
          name_(std::move(name))
    {
        commands_.push_back(
            add("chain", named(family_, name_, std::move(hook))));
    }

    void rule(std::initializer_list<Json> expressions)
    {
        Json object = in(family_);
        object["chain"] = name_;
        object["expr"] = Json(expressions);
        commands_.push_back(add("rule", std::move(object)));
    }

  private:
    Json& commands_;
    std::string family_;
    std::string name_;
};

Json hook(const char* name, int priority)
{
    return {{"type", "filter"},
            {"hook", name},
            {"prio", priority},
            {"policy", "accept"}};
}

Json jump(const char* chain)
{
    return {{"jump", {{"target", chain}}}};
}

void addSets(Json& commands, const std::string& family)
{
    for (const std::string& name : leaseSets)
    {
        commands.push_back(add("set", named(family, name,
                                            {{"type", {"ifname", "ether_addr"}},
                                             {"flags", {"timeout"}}})));
    }
    commands.push_back(
        add("set", named(family, "talk",
                         {{"type", "ifname"}, {"flags", {"timeout"}}})));
    for (const char* name : {"expected", "hidden"})
    {
        commands.push_back(
            add("set", named(family, name, {{"type", "ether_addr"}})));
    }
}

/** What comes from a boot port passes only with the lease's address, untagged,
 * and not to an address that bridges treat as their own (STP, LLDP, 802.1X).
 * Frames of ours have been seen by the agent, which is before all hooks. */
void fromBootPort(Chain& chain, std::uint16_t etherType)
{
    Json types = Json::array({etherType});
    for (std::uint16_t tag : tagTypes)
    {
        types.push_back(tag);
    }
    chain.rule({match(ether("type"), {{"set", types}}), drop});
    chain.rule({match({{"&", {ether("daddr"), "ff:ff:ff:ff:ff:f0"}}},
                      "01:80:c2:00:00:00"),
                drop});
    chain.rule({match(ether("daddr"), "@hidden"), drop});
    chain.rule({match(pair(meta("iifname"), ether("saddr")), "@live"), accept});
    chain.rule({drop});
}

/** What goes to a boot port: to the lease's address, and broadcasts. */
void toBootPort(Chain& chain, bool draining)
{
    chain.rule({match(pair(meta("oifname"), ether("daddr")), "@live"), accept});
    chain.rule({match(meta("oifname"), "@talk"),
                match(ether("daddr"), "ff:ff:ff:ff:ff:ff"), accept});
    if (draining)
    {
        chain.rule({match(pair(meta("oifname"), ether("daddr")), "@draining"),
                    accept});
    }
    chain.rule({drop});
}

Json leaseElement(const std::string& port, const MacAddress& address,
                  std::chrono::seconds time)
{
    return {{"elem",
             {{"val", {{"concat", {port, address.text()}}}},
              {"timeout", time.count()}}}};
}

Json element(const std::string& family, const std::string& set, Json elements)
{
    return {{"element", named(family, set, {{"elem", std::move(elements)}})}};
}

void addTo(Json& commands, const std::string& family, const std::string& set,
           const Json& value)
{
    commands.push_back({{"add", element(family, set, Json::array({value}))}});
}

/** Whether it is there or not: its own time may end at any moment. */
void removeFrom(Json& commands, const std::string& family,
                const std::string& set, const Json& value)
{
    addTo(commands, family, set, value);
    commands.push_back(
        {{"delete", element(family, set, Json::array({value}))}});
}

/** With a new time-out, whether it was there or not. */
void renewIn(Json& commands, const std::string& family, const std::string& set,
             const Json& value)
{
    removeFrom(commands, family, set, value);
    addTo(commands, family, set, value);
}

Json texts(const std::vector<MacAddress>& addresses)
{
    Json out = Json::array();
    for (const MacAddress& address : addresses)
    {
        out.push_back(address.text());
    }
    return out;
}

Json listTable(Nft& nft, const std::string& family)
{
    return nft.list(
        {{"list", {{"table", {{"family", family}, {"name", table}}}}}},
        "cannot look at the fence");
}

/** The values in a set, as nftables listed it. */
std::vector<Json> elementsOf(const Json& listed)
{
    std::vector<Json> out;
    for (const Json& object : listed)
    {
        if (!object.contains("set") || !object["set"].contains("elem"))
        {
            continue;
        }
        for (const Json& entry : object["set"]["elem"])
        {
            // With a time-out it is wrapped.
            bool wrapped = entry.is_object() && entry.contains("elem");
            out.push_back(wrapped ? entry["elem"].at("val") : entry);
        }
    }
    return out;
}

std::string leaseText(const std::string& port, const MacAddress& address)
{
    return port + " " + address.text();
}

/** A value of any of the sets, as nftables listed it. */
std::string valueText(const Json& value)
{
    if (value.is_string())
    {
        return value.get<std::string>();
    }
    const Json& parts = value.at("concat");
    return parts.at(0).get<std::string>() + " " +
           parts.at(1).get<std::string>();
}

/** Rules and chains, and sets without what comes and goes in them. */
Json rulesIn(const Json& listed)
{
    Json out = Json::array();
    for (Json object : listed)
    {
        bool set = object.contains("set");
        if (set && object["set"]["name"] != "boot")
        {
            object["set"].erase("elem");
        }
        if (set || object.contains("rule") || object.contains("chain"))
        {
            out.push_back(std::move(object));
        }
    }
    return out;
}

/** The same of the family netdev, but of no port's hooks. */
Json setsIn(const Json& listed)
{
    Json out = Json::array();
    for (const Json& object : rulesIn(listed))
    {
        if (object.contains("set"))
        {
            out.push_back(object);
        }
    }
    return out;
}

Json hooksIn(const Json& listed, const std::string& port)
{
    Json out = Json::array();
    for (const Json& object : listed)
    {
        std::string chain =
            object.contains("chain")  ? object["chain"].value("name", "")
            : object.contains("rule") ? object["rule"].value("chain", "")
                                      : "";
        if (chain == "in_" + port || chain == "out_" + port)
        {
            out.push_back(object);
        }
    }
    return out;
}

} // namespace

Fence::Fence(std::vector<std::string> ports, std::uint16_t etherType)
    : ports_(std::move(ports)), etherType_(etherType)
{}

void Fence::install()
{
    Json commands = Json::array();
    for (const std::string& family : families)
    {
        Json object = {{"family", family}, {"name", table}};
        commands.push_back(add("table", object));
        commands.push_back({{"delete", {{"table", object}}}});
        commands.push_back(add("table", object));
        addSets(commands, family);
    }
    Json boot = Json::array();
    for (const std::string& port : ports_)
    {
        boot.push_back(port);
    }
    commands.push_back(add(
        "set", named("bridge", "boot", {{"type", "ifname"}, {"elem", boot}})));

    Chain from(commands, "bridge", "from_boot");
    fromBootPort(from, etherType_);
    Chain pre(commands, "bridge", "pre", hook("prerouting", early));
    pre.rule({match(meta("iifname"), "@boot"), jump("from_boot")});
    pre.rule({match(ether("type"), etherType_), drop});
    pre.rule({match(ether("saddr"), "@expected"), drop});
    pre.rule({match(ether("daddr"), "@hidden"), drop});
    // Link-local frames come here without having been in "pre".
    Chain input(commands, "bridge", "input", hook("input", early));
    input.rule({match(meta("iifname"), "@boot"), jump("from_boot")});

    Chain to(commands, "bridge", "to_boot");
    toBootPort(to, false);
    Chain forward(commands, "bridge", "forward", hook("forward", late));
    forward.rule({match(meta("oifname"), "@boot"), jump("to_boot")});
    Chain output(commands, "bridge", "output", hook("output", early));
    output.rule({match(ether("daddr"), "@hidden"), drop});
    Chain outgoing(commands, "bridge", "send_boot");
    toBootPort(outgoing, true);
    output.rule({match(meta("oifname"), "@boot"), jump("send_boot")});
    Chain post(commands, "bridge", "post", hook("postrouting", late));
    post.rule({match(meta("oifname"), "@boot"), jump("send_boot")});

    nft_.run(commands, "cannot install the fence");
    rulesMade_ = rulesIn(listTable(nft_, "bridge"));
    setsMade_ = setsIn(listTable(nft_, "netdev"));
    hooksMade_.clear();
    contents_.clear();
}

void Fence::attach(const std::string& port)
{
    Json commands = Json::array();
    for (const char* name : {"in_", "out_"})
    {
        // What is left from an interface of this name, if anything.
        Json chain = named("netdev", name + port);
        commands.push_back(add("chain", chain));
        commands.push_back({{"delete", {{"chain", chain}}}});
    }
    auto on = [&](const char* name) {
        Json out = hook(name, portPriority);
        out["dev"] = port;
        return out;
    };
    Chain ingress(commands, "netdev", "in_" + port, on("ingress"));
    fromBootPort(ingress, etherType_);
    Chain egress(commands, "netdev", "out_" + port, on("egress"));
    // The agent's own frames; nothing else can send them (see "pre").
    egress.rule({match(ether("type"), etherType_), accept});
    toBootPort(egress, true);
    nft_.run(commands, "cannot fence " + port);
    hooksMade_[port] = hooksIn(listTable(nft_, "netdev"), port);
}

void Fence::guard(const std::vector<MacAddress>& expected,
                  const std::vector<MacAddress>& hidden)
{
    Json commands = Json::array();
    for (const std::string& family : families)
    {
        for (const auto& [set, addresses] :
             {std::pair("expected", &expected), std::pair("hidden", &hidden)})
        {
            commands.push_back({{"flush", {{"set", named(family, set)}}}});
            if (!addresses->empty())
            {
                commands.push_back(
                    {{"add", element(family, set, texts(*addresses))}});
            }
        }
    }
    nft_.run(commands, "cannot guard the secret addresses");
    for (const auto& [set, addresses] :
         {std::pair("expected", &expected), std::pair("hidden", &hidden)})
    {
        std::set<std::string>& texts = contents_[set];
        texts.clear();
        for (const MacAddress& address : *addresses)
        {
            texts.insert(address.text());
        }
    }
}

void Fence::open(const std::string& port, const MacAddress& address,
                 std::chrono::seconds time, bool broadcast)
{
    Json commands = Json::array();
    for (const std::string& family : families)
    {
        renewIn(commands, family, "live", leaseElement(port, address, time));
        if (broadcast)
        {
            renewIn(commands, family, "talk",
                    {{"elem", {{"val", port}, {"timeout", time.count()}}}});
        }
    }
    nft_.run(commands, "cannot open the fence at " + port);
    contents_["live"].insert(leaseText(port, address));
    if (broadcast)
    {
        contents_["talk"].insert(port);
    }
}

void Fence::drain(const std::string& port, const MacAddress& address,
                  std::chrono::seconds time)
{
    close(port);
    Json commands = Json::array();
    for (const std::string& family : families)
    {
        renewIn(commands, family, "draining",
                leaseElement(port, address, time));
    }
    nft_.run(commands, "cannot let the last answer out of " + port);
    contents_["draining"].insert(leaseText(port, address));
}

void Fence::close(const std::string& port)
try
{
    shut(port);
}
catch (const Error&)
{
    // Kernels that look at the clock for each command of a transaction may
    // still find that an element's time has ended in the middle of it.
    shut(port);
}

void Fence::shut(const std::string& port)
{
    // Whatever is in there for this port, also what we do not remember.
    Json commands = Json::array();
    for (const std::string& family : families)
    {
        for (const char* set : {"live", "draining", "talk"})
        {
            Json listed = nft_.list({{"list", {{"set", named(family, set)}}}},
                                    "cannot look at the fence");
            for (const Json& value : elementsOf(listed))
            {
                Json interface =
                    value.is_object() ? value.at("concat").at(0) : value;
                if (interface == port)
                {
                    removeFrom(commands, family, set, value);
                }
            }
        }
    }
    if (!commands.empty())
    {
        nft_.run(commands, "cannot shut the fence at " + port);
    }
    for (const char* set : {"live", "draining", "talk"})
    {
        std::erase_if(contents_[set], [&](const std::string& value) {
            return value == port || value.starts_with(port + " ");
        });
    }
}

bool Fence::setsHold(const Json& listed) const
{
    static const std::set<std::string> exact = {"expected", "hidden"};
    for (const Json& object : listed)
    {
        if (!object.contains("set") || object["set"]["name"] == "boot")
        {
            continue;
        }
        const auto name = object["set"].at("name").get<std::string>();
        std::set<std::string> have;
        for (const Json& value : elementsOf(Json::array({object})))
        {
            have.insert(valueText(value));
        }
        auto found = contents_.find(name);
        const std::set<std::string> made =
            found == contents_.end() ? std::set<std::string>() : found->second;
        if (exact.contains(name) ? have != made
                                 : !std::ranges::includes(made, have))
        {
            return false;
        }
    }
    return true;
}

bool Fence::intact(const std::set<std::string>& attached)
try
{
    const Json bridge = listTable(nft_, "bridge");
    const Json netdev = listTable(nft_, "netdev");
    bool out = rulesIn(bridge) == rulesMade_ && setsIn(netdev) == setsMade_ &&
               setsHold(bridge) && setsHold(netdev);
    for (const std::string& port : attached)
    {
        auto made = hooksMade_.find(port);
        out = out && made != hooksMade_.end() &&
              hooksIn(netdev, port) == made->second;
    }
    return out;
}
catch (const Error&)
{
    return false; // the tables are gone
}

} // namespace airlock::sw
