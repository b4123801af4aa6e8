#include "tools/switchd/daemon.hpp"

int main(int argc, char** argv)
{
    return airlock::sw::runDaemon(argc, argv);
}
