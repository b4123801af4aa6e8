#include "tools/airlock-tpm/cli.hpp"

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv)
{
    // The library's own log says less than our errors, and says it twice.
    ::setenv("TSS2_LOG", "all+none", 0);
    return airlock::tpmtool::run(argc, argv, std::cin, std::cout, std::cerr);
}
