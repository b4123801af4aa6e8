#pragma once

#include "common/json.hpp"
#include "common/mac_address.hpp"
#include "common/secret.hpp"
#include "trust/wire.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace airlock::sw
{

/** How a boot host shows that it is in clean mode. */
enum class Method
{
    mac,   ///< by the source address of the epoch
    mac96, ///< and by the switch address of the epoch
    quote, ///< by a proof over a fresh nonce
};

std::string_view toString(Method method);
std::optional<Method> methodFrom(std::string_view word);

/** What the switch knows about the boot host at a port. */
struct Enrolment
{
    /** Common name of the boot host's certificate: who may have the port cut
     * off over the network. */
    std::string host;
    Method method = Method::mac;
    SharedSecret root; ///< mac, mac96
    /** The last epoch whose addresses were used up. */
    std::uint64_t epoch = 0;
    std::string key;                   ///< quote: for makeVerifier()
    std::optional<MacAddress> address; ///< quote: the only one; or any
    /** quote: the TPM's counters when a lease was opened last. */
    std::optional<trust::wire::ClockInfo> seen;
};

/** Throws Refused naming `where`. */
Enrolment parseEnrolment(const Json& json, std::string_view where);

/** Enrolments on the disk, one file for each port, for the eyes of the agent
 * only. A change is on the disk when save() returns. */
class EnrolmentStore
{
  public:
    /** Makes the directory. */
    explicit EnrolmentStore(std::filesystem::path directory);

    std::optional<Enrolment> load(const std::string& port) const;
    void save(const std::string& port, const Enrolment& enrolment) const;

  private:
    std::filesystem::path fileOf(const std::string& port) const;

    std::filesystem::path directory_;
};

} // namespace airlock::sw
