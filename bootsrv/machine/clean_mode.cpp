#include "bootsrv/machine/clean_mode.hpp"

#include "bootsrv/machine/machine_jobs.hpp"
#include "bootsrv/machine/presence.hpp"
#include "bootsrv/service.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "common/http_server.hpp"
#include "common/log.hpp"
#include "common/tls.hpp"

#include <exception>
#include <optional>
#include <thread>

namespace airlock::machine
{

namespace fs = std::filesystem;

namespace
{

constexpr Milliseconds step{200};
constexpr Milliseconds housekeepingStep = std::chrono::minutes(1);
/** For the answer to `seal` to get out before the network goes. */
constexpr Milliseconds farewell{500};

/** OpenSSL reads files; these are in memory. */
tls::Identity writeIdentity(const fs::path& runtime, const Site::Tls& site)
{
    fs::create_directories(runtime);
    fs::permissions(runtime, fs::perms::owner_all);
    tls::Identity out{runtime / "bootd.pem", runtime / "bootd.key",
                      runtime / "ca.pem"};
    writeFileAtomic(out.certificate, site.certificate, 0600);
    writeFileAtomic(out.key, site.key, 0600);
    writeFileAtomic(out.authorities, site.authorities, 0600);
    return out;
}

http::Server::Options serverOptions(const Site& site)
{
    http::Server::Options out;
    out.address = site.listen;
    out.port = site.port;
    out.notice = [](const std::string& peer, const std::string& what) {
        log::notice("A connection ended badly",
                    {{"PEER", peer}, {"REASON", what}});
    };
    return out;
}

class CleanMode
{
  public:
    explicit CleanMode(const CleanSetup& setup)
        : setup_(setup), keptBlocks_(setup.kept), staging_(setup.staging),
          kept_(keptBlocks_, setup.keptKey, setup.anchor),
          site_(kept_.get().site), jobs_(kept_, staging_),
          identity_(writeIdentity(setup.runtime, site_.tls))
    {
        if (setup.nic.empty())
        {
            return;
        }
        if (!site_.switchTo)
        {
            throw Error("the machine was not told which switch to ask");
        }
        presence_.emplace(setup.nic, setup.addressRoot, setup.previousRoot,
                          kept_,
                          std::make_shared<tls::Context>(
                              identity_, tls::Context::Side::client),
                          setup.prove);
    }

    int run()
    {
        std::jthread collector([this] { collect(); });
        serve();
        while (!stopped())
        {
            if (presence_)
            {
                presence_->tick();
            }
            if (!jobs_.waitSealed(step))
            {
                housekeeping();
            }
            else if (cutOff() && goDirty())
            {
                return 0;
            }
        }
        if (presence_)
        {
            presence_->leave();
        }
        return 0;
    }

  private:
    bool stopped() const { return setup_.stop != nullptr && *setup_.stop; }

    void serve()
    {
        auto context = std::make_shared<tls::Context>(
            identity_, tls::Context::Side::server);
        server_.emplace(
            serverOptions(site_), std::move(context),
            boot::makeHandler(jobs_, {1, AIRLOCK_VERSION, setup_.qemu}));
        log::info("The boot server takes jobs",
                  {{"ADDRESS", site_.listen},
                   {"PORT", std::to_string(server_->port())}});
    }

    /** Steps 604 and 606: true when nothing reaches us any more. */
    bool cutOff()
    {
        std::this_thread::sleep_for(farewell);
        if (presence_ && !presence_->cutOff())
        {
            return false;
        }
        server_.reset();
        return true;
    }

    /** Steps 608 and 610. False when the job was removed at the last moment:
     * then we are back. */
    bool goDirty()
    {
        if (presence_)
        {
            presence_->leave();
        }
        if (jobs_.goDirty())
        {
            log::notice("The machine goes dirty");
            setup_.powerCycle(Mode::dirty);
            return true;
        }
        if (presence_)
        {
            presence_->comeBack();
        }
        serve();
        return false;
    }

    /** While host agents can reach us already. */
    void collect()
    {
        try
        {
            jobs_.collect();
        }
        catch (const std::exception& error)
        {
            log::error("The result of the dirty run cannot be read",
                       {{"REASON", error.what()}});
        }
    }

    void housekeeping()
    {
        if (housekeeping_.passed())
        {
            jobs_.expire();
            housekeeping_ = Deadline(housekeepingStep);
        }
    }

    const CleanSetup& setup_;
    DeviceBlocks keptBlocks_;
    DeviceBlocks staging_;
    Kept kept_;
    Site site_;
    MachineJobs jobs_;
    tls::Identity identity_;
    std::optional<Presence> presence_;
    std::optional<http::Server> server_;
    Deadline housekeeping_{housekeepingStep};
};

} // namespace

int runCleanMode(const CleanSetup& setup)
{
    return CleanMode(setup).run();
}

} // namespace airlock::machine
