#pragma once

#include "trust/tpm.hpp"

#include <mutex>
#include <string>

namespace airlock::machine
{

/** A machine's TPM, for several threads. */
class MachineTpm
{
  public:
    /** `tcti` as for trust::Tpm. */
    explicit MachineTpm(const std::string& tcti) : tpm_(tcti) {}

    template <typename Action>
    auto use(const Action& action)
    {
        std::lock_guard lock(mutex_);
        return action(tpm_);
    }

  private:
    std::mutex mutex_;
    const trust::Tpm tpm_;
};

} // namespace airlock::machine
