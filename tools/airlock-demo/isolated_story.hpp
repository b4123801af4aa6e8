#pragma once

#include "checks.hpp"
#include "common/progress.hpp"
#include "domain_watch.hpp"
#include "tools/rigs/frame_watch.hpp"
#include "tools/rigs/isolated_rig.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::demo
{

/** The story of a guest that boots on an isolated boot host: a machine that is
 * clean, with the network, or dirty, with the guest, behind a switch that shuts
 * its port meanwhile. Twice: started, and rebooted from inside. */
class IsolatedStory
{
  public:
    /** Before the first thread: enters namespaces. `directory`: for files. */
    IsolatedStory(std::filesystem::path directory, std::filesystem::path images,
                  const ProgressStyle& style);

    /** Throws what goes wrong on the way. */
    void run();
    const Checks& checks() const { return checks_; }
    /** The tables at the end. */
    std::string render() const;
    Json toJson() const;
    rig::HostRig& host() { return rig_->production(); }

  private:
    std::string title(const std::string& text)
    {
        return steps_.next() + " " + text;
    }
    std::string portNow();
    void makeBootHost();
    void live(const std::string& name, bool first);
    void lookAround(const std::string& name);
    void checkSwitch();

    ProgressStyle style_;
    StepCounter steps_;
    std::optional<rig::IsolatedRig> rig_;
    std::optional<rig::FrameWatch> frames_;
    std::optional<DomainWatch> watch_;
    Checks checks_;
    std::vector<Json> jobs_;
    std::vector<rig::PortPeriod> periods_;
    bool seenDirty_ = false;
    std::filesystem::path images_;
    std::filesystem::path directory_;
};

} // namespace airlock::demo
