#include "devmodel/vm/guest_agent.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"
#include "common/socket.hpp"

#include <array>
#include <utility>

namespace airlock::vm
{

namespace
{

/** Ends what an agent may have been sent before, and comes back before the
 * answer. */
constexpr char delimiter = '\xff';
constexpr std::size_t heardMax = 16U << 10;
constexpr Milliseconds askAgain = std::chrono::seconds(2);

std::uint32_t randomNumber()
{
    std::array<std::uint8_t, 4> bytes{};
    fillRandom(bytes);
    std::uint32_t out = 0;
    for (std::uint8_t byte : bytes)
    {
        out = out << 8 | byte;
    }
    return out;
}

/** Whether a line of the guest's is {"return": number}. */
bool isAnswer(std::string_view line, std::uint32_t number)
{
    try
    {
        Json answer = parseJson(line, "guest agent");
        auto value = JsonField(answer, "guest agent").find("return");
        return value && value->u64(UINT32_MAX) == number;
    }
    catch (const Error&)
    {
        return false;
    }
}

} // namespace

GuestAgent::GuestAgent(UniqueFd socket)
    : socket_(std::move(socket)), number_(randomNumber())
{}

bool GuestAgent::answered()
{
    if (answered_)
    {
        return true;
    }
    if (nextQuestion_.passed())
    {
        ask();
        nextQuestion_ = Deadline(askAgain);
    }
    receive();
    std::size_t end = heard_.find('\n');
    while (!answered_ && end != std::string::npos)
    {
        std::string_view line = std::string_view(heard_).substr(0, end);
        line.remove_prefix(line.rfind(delimiter) + 1); // npos + 1 is 0
        answered_ = isAnswer(line, number_);
        heard_.erase(0, end + 1);
        end = heard_.find('\n');
    }
    return answered_;
}

void GuestAgent::ask()
{
    Json question = {{"execute", "guest-sync-delimited"},
                     {"arguments", {{"id", number_}}}};
    try
    {
        sendAll(socket_.get(), delimiter + dumpJson(question) + "\n",
                Deadline(Milliseconds::zero()));
    }
    catch (const TimedOut&)
    {
        // Nobody reads yet: the earlier questions still wait.
    }
}

void GuestAgent::receive()
{
    if (heard_.size() >= heardMax)
    {
        heard_.clear(); // no agent writes lines as long as this
    }
    receiveSome(socket_.get(), heard_, heardMax - heard_.size(),
                Deadline(Milliseconds::zero()));
}

} // namespace airlock::vm
