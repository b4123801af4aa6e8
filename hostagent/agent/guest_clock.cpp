#include "hostagent/agent/guest_clock.hpp"

#include <fmt/format.h>

#include <chrono>
#include <optional>

namespace airlock::host
{

namespace
{

using std::chrono::nanoseconds;

constexpr nanoseconds tolerance = std::chrono::seconds(1);

nanoseconds now()
{
    return std::chrono::system_clock::now().time_since_epoch();
}

nanoseconds guestTime(Domain& domain)
{
    Json answer = domain.executeInGuest("guest-get-time");
    std::uint64_t time =
        JsonField(answer, "guest agent").at("return").u64(INT64_MAX);
    return nanoseconds(static_cast<std::int64_t>(time));
}

} // namespace

void setGuestClock(Domain& domain)
{
    std::optional<LibvirtError> complaint;
    try
    {
        domain.executeInGuest("guest-set-time", {{"time", now().count()}});
    }
    catch (const LibvirtError& error)
    {
        // It has set the clock, but cannot set the hardware clock as well,
        // which the machine does not have: what counts is seen below.
        complaint = error;
    }
    nanoseconds before = now();
    nanoseconds time = guestTime(domain);
    if (time < before - tolerance || time > now() + tolerance)
    {
        throw Error(fmt::format(
            "the guest's clock is wrong by more than a second{}{}",
            complaint ? ": " : "", complaint ? complaint->what() : ""));
    }
}

} // namespace airlock::host
