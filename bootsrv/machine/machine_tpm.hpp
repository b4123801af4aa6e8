#pragma once

#include "trust/tpm.hpp"

#include <memory>
#include <mutex>
#include <string>

namespace airlock::machine
{

/** A machine's TPM, for several threads. */
class MachineTpm
{
  public:
    /** Nobody else may use it from then on. */
    explicit MachineTpm(std::shared_ptr<const trust::Tpm> tpm)
        : tpm_(std::move(tpm))
    {}
    /** `tcti` as for trust::Tpm. */
    explicit MachineTpm(const std::string& tcti)
        : MachineTpm(std::make_shared<const trust::Tpm>(tcti))
    {}

    template <typename Action>
    auto use(const Action& action)
    {
        std::lock_guard lock(mutex_);
        return action(*tpm_);
    }

  private:
    std::mutex mutex_;
    std::shared_ptr<const trust::Tpm> tpm_;
};

} // namespace airlock::machine
