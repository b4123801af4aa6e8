#include "bootsrv/capsule/cli.hpp"
#include "bootsrv/capsule/fence.hpp"
#include "bootsrv/daemon.hpp"

#include <string_view>

int main(int argc, char** argv)
{
    if (argc > 1 && std::string_view(argv[1]) == airlock::capsule::fenced)
    {
        return airlock::capsule::runFenced(argc - 1, argv + 1);
    }
    if (airlock::capsule::isToolCommand(argc, argv))
    {
        return airlock::capsule::runTool(argc, argv);
    }
    return airlock::boot::runDaemon(argc, argv);
}
