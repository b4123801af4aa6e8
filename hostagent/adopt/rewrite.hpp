#pragma once

#include "hostagent/adopt/adopt.hpp"
#include "hostagent/domain/xml.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

/** The parts of adopt(); each rewrites its part of the document in place and
 * leaves alone what is right already. */
namespace airlock::host::adoption
{

/** What they share. */
class Rewrite
{
  public:
    Rewrite(pugi::xml_node domain, const AdoptOptions& options,
            AdoptResult& result);

    pugi::xml_node domain() const { return domain_; }
    const AdoptOptions& options() const { return options_; }

    void note(const pugi::xml_node& where, std::string text);
    /** The same text as in the note before is not said again. */
    void note(std::string where, std::string text);
    void refuse(const pugi::xml_node& where, std::string reason,
                std::string advice);

    /** Removes an element; with a note unless the text is empty. */
    void drop(pugi::xml_node node, std::string_view why);
    /** Removes an attribute and says so when it was there. */
    bool dropAttribute(pugi::xml_node node, std::string_view name);

  private:
    /** Where a device was in the XML that the operator knows. */
    std::string pathBefore(const pugi::xml_node& node) const;

    /** Of the devices that are still there, by pugi's hash. */
    std::map<std::size_t, std::string> paths_;
    pugi::xml_node domain_;
    const AdoptOptions& options_;
    AdoptResult& result_;
};

/** What becomes of an element that needs no function of its own. */
enum class Fate
{
    keep,
    drop,
    refuse,
};

struct Rule
{
    std::string_view name;
    Fate fate;
    std::string_view text;        ///< why it is dropped or refused
    std::string_view advice = {}; ///< what to do about a refusal
};

/** Applies the rules to the children of a node. A name that neither a rule
 * nor `handled` has is refused. */
void applyRules(Rewrite& rewrite, pugi::xml_node parent,
                const std::vector<Rule>& rules,
                std::initializer_list<const char*> handled);

/** Child elements of one name, safe against removal while looping. */
std::vector<pugi::xml_node> childrenOf(pugi::xml_node parent, const char* name);

/** The child, made if it is not there: after the first of `after` that is, or
 * at the end. */
pugi::xml_node ensureChild(pugi::xml_node parent, const char* name,
                           std::initializer_list<const char*> after = {});
/** True when the value was another one. */
bool setAttribute(pugi::xml_node node, const char* name,
                  std::string_view value);
bool setText(pugi::xml_node node, std::string_view value);

/** Puts a device at 00:SLOT.0. */
void setSlot(pugi::xml_node device, unsigned slot);

void adoptMachine(Rewrite& rewrite);
void adoptDevices(Rewrite& rewrite);
void adoptDisks(Rewrite& rewrite, pugi::xml_node devices);
void adoptNics(Rewrite& rewrite, pugi::xml_node devices);
void adoptSerial(Rewrite& rewrite, pugi::xml_node devices);

} // namespace airlock::host::adoption
