#pragma once

#include "common/json.hpp"

#include <sstream>
#include <string>
#include <vector>

namespace airlock::test
{

/** What a command line said, and its exit status. */
struct Outcome
{
    int code;
    std::string out;
    std::string err;

    Json json() const { return parseJson(out, "output"); }
};

/** `run(argc, argv, out, err)` with these words, the program's name first. */
template <typename Run>
Outcome runCommand(const std::vector<std::string>& words, Run&& run)
{
    std::vector<const char*> argv;
    for (const std::string& word : words)
    {
        argv.push_back(word.c_str());
    }
    std::ostringstream out;
    std::ostringstream err;
    const int code = run(static_cast<int>(argv.size()), argv.data(), out, err);
    return {code, out.str(), err.str()};
}

} // namespace airlock::test
