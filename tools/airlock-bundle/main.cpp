#include "tools/airlock-bundle/cli.hpp"

#include <iostream>

int main(int argc, char** argv)
{
    return airlock::bundletool::run(argc, argv, std::cout, std::cerr);
}
