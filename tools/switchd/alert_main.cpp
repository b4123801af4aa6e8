#include "tools/switchd/alert_relay.hpp"

int main(int argc, char** argv)
{
    return airlock::sw::runAlertRelay(argc, argv);
}
