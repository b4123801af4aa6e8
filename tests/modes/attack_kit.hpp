#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"
#include "common/mac_address.hpp"
#include "common/sha256.hpp"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

/** What the test gives its attacker, on the disk of the job: what an accomplice
 * on the network has seen, and what to look for. Both sides of the test use
 * this. */
namespace airlock::test
{

struct AttackKit
{
    static constexpr std::uint64_t diskBytes = 4U << 20;
    static constexpr std::size_t textBytes = 256U << 10;
    static constexpr std::uint64_t keptAt = 1U << 20;
    static constexpr std::uint64_t stateAt = 2U << 20;

    MacAddress lastHost; ///< address of the epoch that is over
    MacAddress lastGate; ///< the switch's half of it
    MacAddress nextHost; ///< of one that is to come, as if it was guessed
    std::vector<MacAddress> sources;      ///< to send all kinds of frames from
    std::vector<MacAddress> unicast;      ///< to send them to
    std::map<std::string, Bytes> secrets; ///< to look for
    Bytes kept;  ///< the partition of what is kept, as it was earlier
    Bytes state; ///< device state for production

    /** In the frames of each round: behind a switch as it should be, without
     * any defence, and behind one that the agent has mended. */
    static constexpr const char* firstRound = "airlock attack, first round";
    static constexpr const char* secondRound = "airlock attack, second round";
    static constexpr const char* thirdRound = "airlock attack, third round";

    /** Where staging has orders for dirty mode while it runs, and a text that a
     * search has to find; from its end. */
    static constexpr std::uint64_t orderFromEnd = 4096;
    static constexpr std::uint64_t baitFromEnd = 8192;
    static constexpr const char* bait = "a bait that is to be found here";

    Json toJson() const
    {
        Json hidden = Json::object();
        for (const auto& [name, bytes] : secrets)
        {
            hidden[name] = toHex(turned(bytes));
        }
        return {{"last-host", lastHost.text()}, {"last-gate", lastGate.text()},
                {"next-host", nextHost.text()}, {"sources", texts(sources)},
                {"unicast", texts(unicast)},    {"secrets", hidden},
                {"kept-bytes", kept.size()},    {"state-bytes", state.size()}};
    }

    /** The disk. */
    Bytes write() const
    {
        Bytes out(diskBytes);
        const std::string text = dumpJson(toJson());
        put(out, asBytes(text), 0);
        put(out, kept, keptAt);
        put(out, state, stateAt);
        return out;
    }

    static AttackKit parse(ByteView disk)
    {
        const std::string text(
            reinterpret_cast<const char*>(disk.first(textBytes).data()));
        const Json json = parseJson(text, "kit");
        AttackKit out;
        out.lastHost = address(json["last-host"]);
        out.lastGate = address(json["last-gate"]);
        out.nextHost = address(json["next-host"]);
        out.sources = addresses(json["sources"]);
        out.unicast = addresses(json["unicast"]);
        for (const auto& [name, hex] : json["secrets"].items())
        {
            out.secrets[name] = turned(fromHex(hex.get<std::string>()).value());
        }
        out.kept = copyOf(disk.subspan(keptAt, json["kept-bytes"]));
        out.state = copyOf(disk.subspan(stateAt, json["state-bytes"]));
        return out;
    }

  private:
    /** So that the kit itself is not what a search finds. */
    static Bytes turned(Bytes bytes)
    {
        for (std::uint8_t& byte : bytes)
        {
            byte = static_cast<std::uint8_t>(~byte);
        }
        return bytes;
    }

    static void put(Bytes& disk, ByteView data, std::uint64_t at)
    {
        std::copy(data.begin(), data.end(),
                  disk.begin() + static_cast<std::ptrdiff_t>(at));
    }

    static Json texts(const std::vector<MacAddress>& all)
    {
        Json out = Json::array();
        for (const MacAddress& it : all)
        {
            out.push_back(it.text());
        }
        return out;
    }

    static MacAddress address(const Json& text)
    {
        return MacAddress::parse(text.get<std::string>()).value();
    }

    static std::vector<MacAddress> addresses(const Json& all)
    {
        std::vector<MacAddress> out;
        for (const Json& it : all)
        {
            out.push_back(address(it));
        }
        return out;
    }
};

} // namespace airlock::test
