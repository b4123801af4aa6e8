#pragma once

#include <chrono>
#include <string>
#include <type_traits>
#include <vector>

namespace airlock::vm
{

struct StepTime
{
    std::string name;
    double seconds = 0;
};

/** Runs steps and notes how long each took, in their order. */
class StepClock
{
  public:
    /** `steps` has to outlive it. */
    explicit StepClock(std::vector<StepTime>& steps) : steps_(steps) {}

    /** What the function returns. A step that throws is not noted. */
    template <typename Function>
    auto operator()(const std::string& name, const Function& function)
    {
        using Clock = std::chrono::steady_clock;
        Clock::time_point start = Clock::now();
        auto note = [&] {
            std::chrono::duration<double> time = Clock::now() - start;
            steps_.push_back({name, time.count()});
        };
        if constexpr (std::is_void_v<decltype(function())>)
        {
            function();
            note();
        }
        else
        {
            auto result = function();
            note();
            return result;
        }
    }

  private:
    std::vector<StepTime>& steps_;
};

} // namespace airlock::vm
