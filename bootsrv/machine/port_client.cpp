#include "bootsrv/machine/port_client.hpp"

#include "common/epoch_address.hpp"
#include "common/error.hpp"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <variant>

namespace airlock::machine
{

namespace
{

/** For an answer over one cable; the agent works on it at once. */
constexpr Milliseconds answerTime = std::chrono::seconds(2);

} // namespace

QuarantineSocket::QuarantineSocket(int link, std::uint16_t etherType)
    : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
      etherType_(etherType)
{
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(etherType);
    address.sll_ifindex = link;
    if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address),
                       sizeof(address)) != 0)
    {
        throwErrno("cannot send frames to the switch");
    }
}

void QuarantineSocket::send(const quarantine::Frame& frame)
{
    Bytes bytes = quarantine::write(frame, etherType_);
    if (::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0)
    {
        throwErrno("cannot send a frame to the switch");
    }
}

std::optional<quarantine::Frame>
QuarantineSocket::receive(const MacAddress& to, const Deadline& deadline)
{
    std::array<std::uint8_t, quarantine::maxFrame + 4> buffer{};
    for (;;)
    {
        pollfd wait = {fd_.get(), POLLIN, 0};
        if (::poll(&wait, 1, deadline.pollTimeout()) <= 0)
        {
            return std::nullopt;
        }
        ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0)
        {
            if (deadline.passed())
            {
                return std::nullopt;
            }
            continue;
        }
        try
        {
            quarantine::Frame frame = quarantine::parse(
                {buffer.data(), static_cast<std::size_t>(got)}, etherType_);
            if (frame.destination == to)
            {
                return frame;
            }
        }
        catch (const Refused&)
        {
            // Somebody else's; the next one may be the answer.
        }
    }
}

MacAddress PortClient::addressFor(const Site::Switch& site, const Secret& root,
                                  std::uint64_t epoch)
{
    return site.method == ProofMethod::quote && site.address
               ? *site.address
               : epoch::hostAddress(root, epoch);
}

PortClient::PortClient(int link, const Site::Switch& site, const Secret& root,
                       std::uint64_t epoch, MakeProof prove)
    : site_(site), address_(addressFor(site, root, epoch)),
      gate_(site.method == ProofMethod::mac96
                ? epoch::switchAddress(root, epoch)
                : quarantine::agentAddress),
      prove_(std::move(prove)), socket_(link, site.etherType)
{
    if (site_.method == ProofMethod::quote && !prove_)
    {
        throw Error("the switch wants quotes, and there is no TPM to make "
                    "them");
    }
}

PortClient::Said PortClient::show()
{
    if (site_.method == ProofMethod::quote)
    {
        return quote();
    }
    socket_.send({gate_, address_, quarantine::Hello{}});
    return Said::nothing;
}

PortClient::Said PortClient::quote()
{
    Deadline deadline(answerTime);
    socket_.send({gate_, address_, quarantine::Ask{}});
    std::optional<quarantine::Nonce> proved;
    while (auto frame = socket_.receive(address_, deadline))
    {
        if (const auto* challenge =
                std::get_if<quarantine::Challenge>(&frame->message);
            challenge != nullptr && !proved)
        {
            proved = challenge->nonce;
            Bytes proof = prove_(quarantine::statement(
                challenge->port, address_, challenge->nonce));
            socket_.send({gate_, address_,
                          quarantine::Proof{*proved, std::move(proof)}});
            deadline = Deadline(answerTime);
        }
        const auto* verdict = std::get_if<quarantine::Verdict>(&frame->message);
        if (verdict != nullptr && verdict->nonce == proved)
        {
            return verdict->open ? Said::open : Said::refused;
        }
    }
    return Said::nothing;
}

} // namespace airlock::machine
