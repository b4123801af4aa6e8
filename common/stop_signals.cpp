#include "common/stop_signals.hpp"

namespace airlock
{

StopSignals::StopSignals()
{
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGUSR2); // ours, to end the wait
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    thread_ = std::thread([this] {
        int number = 0;
        sigwait(&set_, &number);
        source_.request_stop();
    });
}

StopSignals::~StopSignals()
{
    pthread_kill(thread_.native_handle(), SIGUSR2);
    thread_.join();
}

} // namespace airlock
