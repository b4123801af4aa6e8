#include "common/qmp.hpp"
#include "common/socket.hpp"

#include <sys/socket.h>

#include <cstdlib>

/** A QEMU that says anything at all: the client ends in an answer or in an
 * Error, within its time and its limits. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    // What the socket takes at once; a longer input would need a thread.
    constexpr std::size_t most = 64U << 10;
    if (size > most)
    {
        return 0;
    }
    auto [ours, peer] = socketPair();
    sendAll(peer.get(), asText({data, size}),
            Deadline(std::chrono::seconds(20)));
    ::shutdown(peer.get(), SHUT_WR);
    QmpLimits limits;
    limits.lineBytes = most;
    limits.queueEvents = 4;
    limits.queueBytes = 512;
    limits.json = {most, 16};
    try
    {
        QmpClient qmp(std::move(ours), std::chrono::seconds(20), limits);
        qmp.execute("query-status", {}, std::chrono::seconds(20));
        qmp.waitEvent("STOP", std::chrono::seconds(20));
    }
    catch (const TimedOut&)
    {
        std::abort(); // the peer has closed: there is nothing to wait for
    }
    catch (const Error&)
    {}
    return 0;
}
