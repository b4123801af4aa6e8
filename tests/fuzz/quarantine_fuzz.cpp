#include "common/file.hpp"
#include "common/quarantine.hpp"
#include "tools/switchd/port.hpp"

#include <cstdlib>

namespace
{

using namespace airlock;

/** A switch that does what it is told. */
class Fabric : public sw::Fabric
{
  public:
    void open(const std::string&, const MacAddress&,
              std::chrono::seconds) override
    {
        // Nobody guesses an address, and nobody signs.
        std::abort();
    }
    void drain(const std::string&, const MacAddress&,
               std::chrono::seconds) override
    {}
    void close(const std::string&) override {}
    void send(const std::string&, ByteView frame) override
    {
        quarantine::parse(frame);
    }
    bool elsewhere(const std::string&, const MacAddress&) override
    {
        return false;
    }
    std::optional<std::string> foreign(const std::string&,
                                       const MacAddress&) override
    {
        return std::nullopt;
    }
    void guardsChanged() override {}
};

constexpr const char* key =
    "-----BEGIN PUBLIC KEY-----\n"
    "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"
    "-----END PUBLIC KEY-----\n";

/** One port of each method. */
class Target
{
  public:
    Target() : store_(directory_.path())
    {
        for (sw::Method method :
             {sw::Method::mac, sw::Method::mac96, sw::Method::quote})
        {
            sw::Enrolment enrolment;
            enrolment.host = "host";
            enrolment.method = method;
            enrolment.root = std::make_shared<Secret>(Secret::random());
            enrolment.key = key;
            sw::PortSettings settings;
            settings.name = std::string(sw::toString(method));
            store_.save(settings.name, enrolment);
            ports_.push_back(std::make_unique<sw::PortAgent>(
                settings, store_, fabric_,
                [](log::Level, std::string_view,
                   const std::vector<log::Field>&) {}));
        }
    }

    void frame(ByteView bytes, bool tagged)
    {
        now_ += std::chrono::seconds(1); // no limit is reached
        for (auto& port : ports_)
        {
            port->frame({bytes, tagged}, now_);
            port->tick(now_);
        }
    }

  private:
    TempDirectory directory_;
    sw::EnrolmentStore store_;
    Fabric fabric_;
    std::vector<std::unique_ptr<sw::PortAgent>> ports_;
    sw::TimePoint now_{};
};

} // namespace

/** Any bytes at a port: they are refused or answered, and open nothing. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    static Target target;
    ByteView bytes(data, size);
    target.frame(bytes, size % 7 == 0);
    try
    {
        quarantine::Frame parsed = quarantine::parse(bytes);
        quarantine::Frame again = quarantine::parse(quarantine::write(parsed));
        if (again.source != parsed.source ||
            again.message.index() != parsed.message.index())
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
