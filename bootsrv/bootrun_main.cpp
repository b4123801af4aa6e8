#include "bootsrv/boot_run.hpp"

int main(int argc, char** argv)
{
    return airlock::boot::bootRun(argc, argv);
}
