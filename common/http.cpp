#include "common/http_server.hpp"

namespace airlock::http
{

namespace
{

constexpr std::size_t maxPath = 512;
constexpr std::size_t maxPart = 128;
constexpr std::string_view partCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

} // namespace

std::vector<std::string> splitPath(std::string_view target)
{
    if (target.size() < 2 || target.size() > maxPath || target[0] != '/')
    {
        throw Refused("path", "is empty or too long");
    }
    std::vector<std::string> parts;
    std::string_view rest = target.substr(1);
    for (bool more = true; more;)
    {
        std::size_t slash = rest.find('/');
        more = slash != std::string_view::npos;
        std::string_view part = rest.substr(0, slash);
        if (part.empty() || part.size() > maxPart || part == "." ||
            part == ".." ||
            part.find_first_not_of(partCharacters) != std::string_view::npos)
        {
            throw Refused("path", printable(part) + " is no part of a path");
        }
        parts.emplace_back(part);
        rest.remove_prefix(more ? slash + 1 : rest.size());
    }
    return parts;
}

Answer Answer::json(const Json& value, unsigned status)
{
    Answer out;
    out.status = status;
    out.body = dumpJson(value) + "\n";
    return out;
}

} // namespace airlock::http
