#include "common/log.hpp"
#include "hostagent/daemon/daemon.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/prctl.h>

#include <exception>

int main(int argc, char** argv)
{
    CLI::App app("Boots the guests of this host on boot servers, and takes "
                 "them back.");
    std::string file = "/etc/airlock/hostd.toml";
    bool check = false;
    bool verbose = false;
    app.add_option("--config", file, "configuration")->capture_default_str();
    app.add_flag("--check-config", check, "read the configuration and exit");
    app.add_flag("-v,--verbose", verbose, "log more");
    app.set_version_flag("--version", AIRLOCK_VERSION);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try
    {
        airlock::log::setLevel(verbose ? airlock::log::Level::debug
                                       : airlock::log::Level::info);
        airlock::host::Config config = airlock::host::readConfig(file);
        if (!check)
        {
            // It has all guests' memory and the keys.
            ::prctl(PR_SET_DUMPABLE, 0);
            // What the unit gives is for this process, not for the programs
            // that it starts.
            ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            airlock::host::runDaemon(config);
        }
        return 0;
    }
    catch (const std::exception& error)
    {
        airlock::log::error("airlock-hostd cannot run",
                            {{"REASON", error.what()}});
        return 1;
    }
}
