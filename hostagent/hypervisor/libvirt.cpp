#include "hostagent/hypervisor/libvirt.hpp"

#include "common/json.hpp"

#include <fmt/format.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <array>
#include <cstdlib>
#include <mutex>

namespace airlock::host
{

namespace
{

constexpr const char* trapEvent = "__internal.airlock_TRAP";
/** Seconds between signs of life, and how many may be missing. */
constexpr int keepAliveInterval = 5;
constexpr unsigned keepAliveCount = 3;
constexpr std::size_t answerMax = 16U << 20;
constexpr int wakeMilliseconds = 200;

/** The error of the last libvirt call of this thread. */
LibvirtError lastError(const std::string& doing)
{
    virErrorPtr error = virGetLastError();
    const char* text = error != nullptr && error->message != nullptr
                           ? error->message
                           : "no reason given";
    return {doing + ": " + text, error != nullptr ? error->code : 0};
}

/** libvirt prints every error to stderr unless told not to. */
void quiet(void* /*data*/, virErrorPtr /*error*/) {}

struct FreeText
{
    void operator()(char* text) const { std::free(text); }
};
using Text = std::unique_ptr<char, FreeText>;

std::string uuidOf(virDomainPtr domain)
{
    std::array<char, VIR_UUID_STRING_BUFLEN> text{};
    if (virDomainGetUUIDString(domain, text.data()) != 0)
    {
        throw lastError("cannot read the UUID of a domain");
    }
    return text.data();
}

/** The "return" of an answer of QEMU that libvirt passed on. */
Json takeAnswer(std::string_view command, const char* text)
{
    Json answer = parseJson(text, "QEMU's answer", {answerMax, 64});
    if (auto error = answer.find("error"); error != answer.end())
    {
        JsonField field(*error, "QEMU's answer: error");
        throw QmpError(command, field.at("class").string(),
                       field.at("desc").string());
    }
    auto value = answer.find("return");
    if (value == answer.end())
    {
        throw Refused("QEMU's answer", "has neither return nor error");
    }
    return *value;
}

std::string commandText(std::string_view command, const Json& arguments)
{
    Json out = {{"execute", command}};
    if (!arguments.is_null())
    {
        out["arguments"] = arguments;
    }
    return dumpJson(out);
}

class LibvirtDomain : public Domain
{
  public:
    explicit LibvirtDomain(std::unique_ptr<_virDomain, FreeLibvirt> domain);

    const std::string& uuid() const override { return uuid_; }
    const std::string& name() const override { return name_; }
    std::string xml() const override;
    RunState state() const override;
    int id() const override;
    void resume() override;
    Json execute(std::string_view command, const Json& arguments,
                 Milliseconds timeout) override;
    Json executeWithFd(std::string_view command, const Json& arguments, int fd,
                       Milliseconds timeout) override;
    Json executeInGuest(std::string_view command, const Json& arguments,
                        std::chrono::seconds timeout) override;

  private:
    std::unique_ptr<_virDomain, FreeLibvirt> domain_;
    std::string uuid_;
    std::string name_;
};

LibvirtDomain::LibvirtDomain(std::unique_ptr<_virDomain, FreeLibvirt> domain)
    : domain_(std::move(domain)), uuid_(uuidOf(domain_.get())),
      name_(virDomainGetName(domain_.get()))
{}

std::string LibvirtDomain::xml() const
{
    Text text(virDomainGetXMLDesc(domain_.get(), 0));
    if (!text)
    {
        throw lastError("cannot read the XML of domain " + name_);
    }
    return text.get();
}

RunState LibvirtDomain::state() const
{
    int state = 0;
    if (virDomainGetState(domain_.get(), &state, nullptr, 0) != 0)
    {
        throw lastError("cannot read the state of domain " + name_);
    }
    switch (state)
    {
    case VIR_DOMAIN_RUNNING:
        return RunState::running;
    case VIR_DOMAIN_PAUSED:
        return RunState::paused;
    case VIR_DOMAIN_SHUTOFF:
        return RunState::off;
    default:
        return RunState::other;
    }
}

int LibvirtDomain::id() const
{
    unsigned id = virDomainGetID(domain_.get());
    return id == ~0U ? -1 : static_cast<int>(id);
}

void LibvirtDomain::resume()
{
    if (virDomainResume(domain_.get()) != 0)
    {
        throw lastError("cannot resume domain " + name_);
    }
}

Json LibvirtDomain::execute(std::string_view command, const Json& arguments,
                            Milliseconds /*timeout*/)
{
    char* answer = nullptr;
    std::string text = commandText(command, arguments);
    if (virDomainQemuMonitorCommand(domain_.get(), text.c_str(), &answer,
                                    VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT) !=
        0)
    {
        throw lastError(fmt::format("{} on domain {}", command, name_));
    }
    return takeAnswer(command, Text(answer).get());
}

Json LibvirtDomain::executeWithFd(std::string_view command,
                                  const Json& arguments, int fd,
                                  Milliseconds /*timeout*/)
{
    char* answer = nullptr;
    std::string text = commandText(command, arguments);
    if (virDomainQemuMonitorCommandWithFiles(
            domain_.get(), text.c_str(), 1, &fd, nullptr, nullptr, &answer,
            VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT) != 0)
    {
        throw lastError(fmt::format("{} on domain {}", command, name_));
    }
    return takeAnswer(command, Text(answer).get());
}

Json LibvirtDomain::executeInGuest(std::string_view command,
                                   const Json& arguments,
                                   std::chrono::seconds timeout)
{
    std::string text = commandText(command, arguments);
    Text answer(virDomainQemuAgentCommand(
        domain_.get(), text.c_str(), static_cast<int>(timeout.count()), 0));
    if (!answer)
    {
        throw lastError(
            fmt::format("{} to the guest agent of {}", command, name_));
    }
    return parseJson(answer.get(), "guest agent");
}

} // namespace

void FreeLibvirt::operator()(_virConnect* connection) const
{
    virConnectClose(connection);
}

void FreeLibvirt::operator()(_virDomain* domain) const
{
    virDomainFree(domain);
}

/** Gets libvirt's events. libvirt may still be calling back when a connection
 * ends, or after it could not be set up, so this outlives it. */
class Connection::Listener
{
  public:
    explicit Listener(OnDomainEvent onEvent) : onEvent_(std::move(onEvent)) {}

    /** No call goes on then, and none comes. */
    void stop()
    {
        std::lock_guard lock(mutex_);
        onEvent_ = nullptr;
    }

    /** A share for libvirt, with forget() to give it back. */
    static void* share(const std::shared_ptr<Listener>& listener)
    {
        return std::make_unique<std::shared_ptr<Listener>>(listener).release();
    }

    static void forget(void* opaque)
    {
        std::unique_ptr<std::shared_ptr<Listener>>(
            static_cast<std::shared_ptr<Listener>*>(opaque));
    }

    static int onLifecycle(virConnectPtr /*connection*/, virDomainPtr domain,
                           int /*event*/, int /*detail*/, void* opaque)
    {
        notify(opaque, domain);
        return 0;
    }

    static void onTrap(virConnectPtr /*connection*/, virDomainPtr domain,
                       const char* /*event*/, long long /*seconds*/,
                       unsigned int /*micros*/, const char* /*details*/,
                       void* opaque)
    {
        notify(opaque, domain);
    }

  private:
    static void notify(void* opaque, virDomainPtr domain)
    {
        Listener& self = **static_cast<std::shared_ptr<Listener>*>(opaque);
        std::lock_guard lock(self.mutex_);
        if (!self.onEvent_)
        {
            return;
        }
        try
        {
            self.onEvent_(uuidOf(domain));
        }
        catch (const Error&)
        {
            // The domain has gone; the regular look at all domains will
            // notice.
        }
    }

    std::mutex mutex_;
    OnDomainEvent onEvent_;
};

Connection::Connection(const std::string& uri, OnDomainEvent onEvent)
    : listener_(std::make_shared<Listener>(std::move(onEvent))),
      connection_(virConnectOpen(uri.c_str()))
{
    if (!connection_)
    {
        throw lastError("cannot connect to libvirt at " + uri);
    }
    try
    {
        listen();
    }
    catch (...)
    {
        listener_->stop();
        throw;
    }
}

void Connection::listen()
{
    virConnectPtr connection = connection_.get();
    // Local connections have no use for it and say so.
    virConnectSetKeepAlive(connection, keepAliveInterval, keepAliveCount);
    void* share = Listener::share(listener_);
    lifecycleEvents_ = virConnectDomainEventRegisterAny(
        connection, nullptr, VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        VIR_DOMAIN_EVENT_CALLBACK(&Listener::onLifecycle), share,
        &Listener::forget);
    if (lifecycleEvents_ < 0)
    {
        LibvirtError error = lastError("cannot listen to libvirt's events");
        Listener::forget(share);
        throw error;
    }
    share = Listener::share(listener_);
    trapEvents_ = virConnectDomainQemuMonitorEventRegister(
        connection, nullptr, trapEvent, &Listener::onTrap, share,
        &Listener::forget, 0);
    if (trapEvents_ < 0)
    {
        LibvirtError error = lastError("cannot listen to QEMU's trap event");
        Listener::forget(share);
        throw error;
    }
}

Connection::~Connection()
{
    listener_->stop();
    if (lifecycleEvents_ >= 0)
    {
        virConnectDomainEventDeregisterAny(connection_.get(), lifecycleEvents_);
    }
    if (trapEvents_ >= 0)
    {
        virConnectDomainQemuMonitorEventDeregister(connection_.get(),
                                                   trapEvents_);
    }
}

bool Connection::alive() const
{
    return virConnectIsAlive(connection_.get()) == 1;
}

std::vector<std::shared_ptr<Domain>> Connection::activeDomains() const
{
    virDomainPtr* list = nullptr;
    int count = virConnectListAllDomains(connection_.get(), &list,
                                         VIR_CONNECT_LIST_DOMAINS_ACTIVE);
    if (count < 0)
    {
        throw lastError("cannot list libvirt's domains");
    }
    std::unique_ptr<virDomainPtr, decltype(&std::free)> owner(list, std::free);
    std::vector<std::unique_ptr<_virDomain, FreeLibvirt>> handles;
    for (int i = 0; i < count; i++)
    {
        handles.emplace_back(list[i]);
    }
    std::vector<std::shared_ptr<Domain>> out;
    for (auto& handle : handles)
    {
        out.push_back(std::make_shared<LibvirtDomain>(std::move(handle)));
    }
    return out;
}

std::shared_ptr<Domain> Connection::find(const std::string& uuid) const
{
    std::unique_ptr<_virDomain, FreeLibvirt> handle(
        virDomainLookupByUUIDString(connection_.get(), uuid.c_str()));
    if (handle)
    {
        return std::make_shared<LibvirtDomain>(std::move(handle));
    }
    LibvirtError error = lastError("cannot look up domain " + uuid);
    if (error.code() != VIR_ERR_NO_DOMAIN)
    {
        throw error;
    }
    return nullptr;
}

LibvirtEventLoop::LibvirtEventLoop()
{
    virSetErrorFunc(nullptr, quiet);
    if (virInitialize() != 0 || virEventRegisterDefaultImpl() != 0)
    {
        throw lastError("cannot start libvirt's event loop");
    }
    // A turn of the loop waits for an event; this one comes by itself, so
    // that the thread sees when it is to end.
    wakeTimer_ = virEventAddTimeout(
        wakeMilliseconds, [](int, void*) {}, nullptr, nullptr);
    thread_ = std::jthread([](const std::stop_token& stop) {
        while (!stop.stop_requested())
        {
            virEventRunDefaultImpl();
        }
    });
}

LibvirtEventLoop::~LibvirtEventLoop()
{
    thread_.request_stop();
    thread_.join();
    virEventRemoveTimeout(wakeTimer_);
}

} // namespace airlock::host
