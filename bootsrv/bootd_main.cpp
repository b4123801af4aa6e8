#include "bootsrv/daemon.hpp"

int main(int argc, char** argv)
{
    return airlock::boot::runDaemon(argc, argv);
}
