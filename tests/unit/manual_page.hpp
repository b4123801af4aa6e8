#pragma once

#include "common/error.hpp"
#include "common/file.hpp"

#include <algorithm>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace airlock::test
{

/** A page of section 5 of the manual. Its keys are terms of the form
 *
 *     **reboot.limit** (seconds; default: 600)
 *
 * and its section EXAMPLE holds a whole file as a literal block. */
class ManualPage
{
  public:
    explicit ManualPage(const std::string& name)
    {
        std::istringstream input(readTextFile(
            std::filesystem::path(AIRLOCK_MANUAL) / name, 1U << 20));
        for (std::string line; std::getline(input, line);)
        {
            lines_.push_back(line);
        }
    }

    /** Sorted. */
    std::vector<std::string> keys() const
    {
        std::vector<std::string> out;
        for (const auto& [key, value] : terms())
        {
            out.push_back(key);
        }
        std::sort(out.begin(), out.end());
        return out;
    }

    /** A file of all keys that have a default, but those of servers. Error
     * when there is none. */
    std::string defaults() const
    {
        std::string out;
        std::string table;
        for (const auto& [key, value] : terms())
        {
            std::size_t dot = key.find('.');
            std::string in = dot == std::string::npos ? "" : key.substr(0, dot);
            if (in == "server" || value.empty())
            {
                continue;
            }
            if (in != table)
            {
                out += "[" + in + "]\n";
                table = in;
            }
            out += key.substr(dot == std::string::npos ? 0 : dot + 1) + " = " +
                   value + "\n";
        }
        requireSome(out, "default");
        return out;
    }

    /** The literal block of the section EXAMPLE; Error when there is none. */
    std::string example() const
    {
        std::string out;
        auto line = std::find(lines_.begin(), lines_.end(), "EXAMPLE");
        for (; line != lines_.end() && *line != "SEE ALSO"; ++line)
        {
            if (line->starts_with("    "))
            {
                out += line->substr(4) + "\n";
            }
        }
        requireSome(out, "example");
        return out;
    }

  private:
    /** A program takes an empty file as well, and nothing would be tested. */
    static void requireSome(const std::string& found, const char* what)
    {
        if (found.empty())
        {
            throw Error(std::string("the manual has no ") + what);
        }
    }

    /** Keys with their defaults, in the order of the page. */
    std::vector<std::pair<std::string, std::string>> terms() const
    {
        static const std::regex term(
            R"(\*\*([a-z.-]+)\*\* \([^;)]*(?:; default: (.*))?\))");
        std::vector<std::pair<std::string, std::string>> out;
        for (const std::string& line : lines_)
        {
            std::smatch parts;
            if (std::regex_match(line, parts, term))
            {
                std::string value = parts[2];
                std::erase(value, '*');
                out.emplace_back(parts[1], value);
            }
        }
        return out;
    }

    std::vector<std::string> lines_;
};

} // namespace airlock::test
