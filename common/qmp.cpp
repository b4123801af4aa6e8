#include "common/qmp.hpp"

#include "common/socket.hpp"

#include <algorithm>

namespace airlock
{

namespace
{

constexpr std::size_t readStep = 64U << 10;
constexpr std::size_t maxErrorText = 4096;

/** A string member of an object from the peer, or a text in its place. */
std::string textOr(const JsonField& object, std::string_view key,
                   std::string_view otherwise)
{
    std::optional<JsonField> field = object.find(key);
    return field ? field->string(maxErrorText) : std::string(otherwise);
}

QmpError errorOf(std::string_view command, const JsonField& error)
{
    return QmpError(command, textOr(error, "class", "GenericError"),
                    textOr(error, "desc", "no description"));
}

bool hasId(const JsonField& message, std::uint64_t id)
{
    std::optional<JsonField> field = message.find("id");
    return field && field->json() == id;
}

} // namespace

QmpError::QmpError(std::string_view command, std::string errorClass,
                   std::string description)
    : Error("QEMU refused " + std::string(command) + ": " + description),
      class_(std::move(errorClass)), description_(std::move(description))
{}

QmpClient::QmpClient(UniqueFd socket, Milliseconds timeout,
                     const QmpLimits& limits)
    : socket_(std::move(socket)), limits_(limits)
{
    Deadline deadline(timeout);
    greet(deadline);
    execute("qmp_capabilities", {}, deadline.left());
}

QmpClient QmpClient::connect(const std::filesystem::path& path,
                             Milliseconds timeout)
{
    Deadline deadline(timeout);
    UniqueFd socket = connectUnix(path, timeout);
    return QmpClient(std::move(socket), deadline.left());
}

void QmpClient::greet(const Deadline& deadline)
{
    std::optional<Json> greeting = nextMessage(deadline);
    if (!greeting)
    {
        throw TimedOut("QMP: no greeting; is the peer a QEMU monitor?");
    }
    JsonField version =
        JsonField(*greeting, "QMP greeting").at("QMP").at("version").at("qemu");
    for (const char* part : {"major", "minor", "micro"})
    {
        version_ += (version_.empty() ? "" : ".") +
                    std::to_string(version.at(part).u64(1000000));
    }
}

Json QmpClient::execute(std::string_view command, const Json& arguments,
                        Milliseconds timeout)
{
    return run(command, arguments, std::nullopt, timeout);
}

Json QmpClient::executeWithFd(std::string_view command, const Json& arguments,
                              int fd, Milliseconds timeout)
{
    return run(command, arguments, fd, timeout);
}

Json QmpClient::run(std::string_view command, const Json& arguments,
                    std::optional<int> passFd, Milliseconds timeout)
{
    Deadline deadline(timeout);
    Json request = {{"execute", command}, {"id", ++lastId_}};
    if (!arguments.is_null())
    {
        request["arguments"] = arguments;
    }
    sendAll(socket_.get(), dumpJson(request) + "\n", deadline, passFd);
    while (std::optional<Json> message = nextMessage(deadline))
    {
        JsonField answer(*message, "QMP answer");
        if (!hasId(answer, lastId_))
        {
            continue; // an event, or the late answer to a timed out command
        }
        if (std::optional<JsonField> error = answer.find("error"))
        {
            throw errorOf(command, *error);
        }
        auto result = message->find("return");
        if (result == message->end())
        {
            answer.refuse("has neither a result nor an error");
        }
        return std::move(*result);
    }
    throw TimedOut("QEMU did not answer " + std::string(command) + " within " +
                   std::to_string(timeout.count()) + " ms");
}

std::optional<Json> QmpClient::nextMessage(const Deadline& deadline)
{
    for (;;)
    {
        if (std::optional<std::string> line = takeLine())
        {
            Json message = parseJson(*line, "QMP", limits_.json);
            if (!message.is_object())
            {
                throw Refused("QMP", "a message is no object");
            }
            if (message.contains("event"))
            {
                queueEvent(message, line->size());
            }
            return message;
        }
        if (deadline.passed() ||
            !receiveSome(socket_.get(), buffer_, readStep, deadline))
        {
            return std::nullopt;
        }
    }
}

std::optional<std::string> QmpClient::takeLine()
{
    std::size_t end = buffer_.find('\n', scanned_);
    if (end == std::string::npos)
    {
        scanned_ = buffer_.size();
        if (scanned_ > limits_.lineBytes)
        {
            throw Refused("QMP", "a line is longer than " +
                                     std::to_string(limits_.lineBytes) +
                                     " bytes");
        }
        return std::nullopt;
    }
    std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    scanned_ = 0;
    return line;
}

void QmpClient::queueEvent(const Json& message, std::size_t bytes)
{
    JsonField field(message, "QMP event");
    std::optional<JsonField> data = field.find("data");
    events_.push_back(
        {{field.at("event").string(), data ? data->json() : Json::object()},
         bytes});
    eventBytes_ += bytes;
    while (events_.size() > limits_.queueEvents ||
           eventBytes_ > limits_.queueBytes)
    {
        eventBytes_ -= events_.front().bytes;
        events_.pop_front();
        ++lostEvents_;
    }
}

std::optional<QmpEvent> QmpClient::takeQueued(const Predicate& matches)
{
    auto found = std::find_if(
        events_.begin(), events_.end(),
        [&](const QueuedEvent& queued) { return matches(queued.event); });
    if (found == events_.end())
    {
        return std::nullopt;
    }
    QmpEvent event = std::move(found->event);
    eventBytes_ -= found->bytes;
    events_.erase(found);
    return event;
}

QmpEvent QmpClient::waitEvent(const Predicate& matches, Milliseconds timeout)
{
    Deadline deadline(timeout);
    do
    {
        if (std::optional<QmpEvent> event = takeQueued(matches))
        {
            return std::move(*event);
        }
    } while (nextMessage(deadline));
    throw TimedOut("QEMU did not send the event that was waited for within " +
                   std::to_string(timeout.count()) + " ms");
}

QmpEvent QmpClient::waitEvent(std::string_view name, Milliseconds timeout)
{
    try
    {
        return waitEvent(
            [name](const QmpEvent& event) { return event.name == name; },
            timeout);
    }
    catch (const TimedOut&)
    {
        throw TimedOut("QEMU did not send " + std::string(name) + " within " +
                       std::to_string(timeout.count()) + " ms");
    }
}

std::optional<QmpEvent> QmpClient::pollEvent(std::string_view name)
{
    constexpr Milliseconds moment(1);
    try
    {
        return waitEvent(name, moment);
    }
    catch (const TimedOut&)
    {
        return std::nullopt;
    }
}

void QmpClient::clearEvents()
{
    events_.clear();
    eventBytes_ = 0;
}

} // namespace airlock
