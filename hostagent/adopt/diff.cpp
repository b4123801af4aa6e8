#include "hostagent/adopt/diff.hpp"

#include "common/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace airlock::host
{

namespace
{

constexpr std::size_t maxLines = 20000;
/** Cells of the table for the lines that differ between the common start and
 * end: 64 MiB. */
constexpr std::size_t maxCells = 16U << 20;
constexpr std::size_t context = 3;

using Lines = std::vector<std::string_view>;

struct Edit
{
    char kind; ///< ' ', '-' or '+'
    std::string_view line;
};

Lines split(std::string_view text)
{
    Lines out;
    while (!text.empty())
    {
        std::size_t end = text.find('\n');
        out.push_back(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size()
                                                         : end + 1);
    }
    if (out.size() > maxLines)
    {
        throw Refused("diff",
                      fmt::format("a text has more than {} lines", maxLines));
    }
    return out;
}

/** Edits of the middle part by the longest common subsequence; too much of it
 * becomes one block that goes and one that comes. */
void middle(const Lines& a, const Lines& b, std::size_t from, std::size_t aEnd,
            std::size_t bEnd, std::vector<Edit>& out)
{
    std::size_t n = aEnd - from;
    std::size_t m = bEnd - from;
    std::vector<std::uint32_t> common;
    bool table = (n + 1) * (m + 1) <= maxCells;
    auto cell = [&](std::size_t i, std::size_t j) -> std::uint32_t& {
        return common[i * (m + 1) + j];
    };
    if (table)
    {
        common.assign((n + 1) * (m + 1), 0);
        for (std::size_t i = n; i-- > 0;)
        {
            for (std::size_t j = m; j-- > 0;)
            {
                cell(i, j) = a[from + i] == b[from + j]
                                 ? cell(i + 1, j + 1) + 1
                                 : std::max(cell(i + 1, j), cell(i, j + 1));
            }
        }
    }
    std::size_t i = 0;
    std::size_t j = 0;
    while (i < n || j < m)
    {
        if (table && i < n && j < m && a[from + i] == b[from + j])
        {
            out.push_back({' ', a[from + i]});
            i++;
            j++;
        }
        else if (i < n &&
                 (j == m || !table || cell(i + 1, j) >= cell(i, j + 1)))
        {
            out.push_back({'-', a[from + i++]});
        }
        else
        {
            out.push_back({'+', b[from + j++]});
        }
    }
}

std::vector<Edit> edits(const Lines& a, const Lines& b)
{
    std::size_t start = 0;
    while (start < a.size() && start < b.size() && a[start] == b[start])
    {
        start++;
    }
    std::size_t tail = 0;
    while (tail < a.size() - start && tail < b.size() - start &&
           a[a.size() - 1 - tail] == b[b.size() - 1 - tail])
    {
        tail++;
    }
    std::vector<Edit> out;
    for (std::size_t i = 0; i < start; i++)
    {
        out.push_back({' ', a[i]});
    }
    middle(a, b, start, a.size() - tail, b.size() - tail, out);
    for (std::size_t i = a.size() - tail; i < a.size(); i++)
    {
        out.push_back({' ', a[i]});
    }
    return out;
}

std::string range(std::size_t line, std::size_t count)
{
    return count == 1
               ? std::to_string(line)
               : fmt::format("{},{}", count == 0 ? line - 1 : line, count);
}

/** Index after the last edit of the hunk that has its first change at
 * `first`. */
std::size_t hunkEnd(const std::vector<Edit>& all, std::size_t first)
{
    std::size_t last = first;
    for (std::size_t i = first; i < all.size() && i <= last + 2 * context; i++)
    {
        if (all[i].kind != ' ')
        {
            last = i;
        }
    }
    return std::min(last + context + 1, all.size());
}

} // namespace

std::string unifiedDiff(std::string_view before, std::string_view after,
                        std::string_view beforeName, std::string_view afterName)
{
    std::vector<Edit> all = edits(split(before), split(after));
    std::string out;
    std::size_t aLine = 1;
    std::size_t bLine = 1;
    std::size_t done = 0;
    auto count = [&](std::size_t from, std::size_t to, char kind) {
        return static_cast<std::size_t>(std::count_if(
            all.begin() + static_cast<std::ptrdiff_t>(from),
            all.begin() + static_cast<std::ptrdiff_t>(to),
            [&](const Edit& e) { return e.kind == ' ' || e.kind == kind; }));
    };
    for (std::size_t i = 0; i < all.size(); i++)
    {
        if (all[i].kind == ' ')
        {
            continue;
        }
        std::size_t from = std::max(done, i < context ? 0 : i - context);
        std::size_t to = hunkEnd(all, i);
        aLine += count(done, from, '-');
        bLine += count(done, from, '+');
        if (out.empty())
        {
            out = fmt::format("--- {}\n+++ {}\n", beforeName, afterName);
        }
        out +=
            fmt::format("@@ -{} +{} @@\n", range(aLine, count(from, to, '-')),
                        range(bLine, count(from, to, '+')));
        for (std::size_t k = from; k < to; k++)
        {
            out += fmt::format("{}{}\n", all[k].kind, all[k].line);
        }
        aLine += count(from, to, '-');
        bLine += count(from, to, '+');
        done = to;
        i = to - 1;
    }
    return out;
}

} // namespace airlock::host
