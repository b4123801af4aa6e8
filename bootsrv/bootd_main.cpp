#include "bootsrv/capsule/cli.hpp"
#include "bootsrv/daemon.hpp"

int main(int argc, char** argv)
{
    if (airlock::capsule::isToolCommand(argc, argv))
    {
        return airlock::capsule::runTool(argc, argv);
    }
    return airlock::boot::runDaemon(argc, argv);
}
