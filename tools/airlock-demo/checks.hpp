#pragma once

#include "common/json.hpp"

#include <string>
#include <vector>

namespace airlock::demo
{

struct Check
{
    std::string name;
    bool ok = false;
    std::string detail; ///< what was seen
};

/** What was expected and what was seen, in the order of the story. */
class Checks
{
  public:
    void add(std::string name, bool ok, std::string detail);

    /** Of two reports of airlock-probe from the production machine: the guest
     * went on living, unharmed. */
    void addLife(const std::string& life, const Json& first, const Json& second,
                 unsigned vcpus);

    /** Markers written at different times are all there, unchanged. */
    void addMarkers(const Json& expected, const Json& report);

    bool allHeld() const;
    const std::vector<Check>& list() const { return checks_; }
    Json toJson() const;

  private:
    void addTimers(const std::string& life, const Json& before,
                   const Json& after, unsigned vcpus);

    std::vector<Check> checks_;
};

} // namespace airlock::demo
