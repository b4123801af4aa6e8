#include "tools/airlockctl/cli.hpp"

#include <iostream>

int main(int argc, char** argv)
{
    return airlock::ctl::run(argc, argv, std::cout, std::cerr);
}
