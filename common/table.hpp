#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace airlock
{

/** An aligned table of plain ASCII text:
 *
 *     device     before  after
 *     ---------  ------  -----
 *     sections       34     17
 *
 * Bytes that are not printable ASCII come out as '?', so a cell may hold a
 * text from outside.
 */
class Table
{
  public:
    enum class Align
    {
        left,
        right,
    };

    struct Column
    {
        std::string title;
        Align align = Align::left;
    };

    explicit Table(std::vector<Column> columns);

    /** One cell per column; missing ones are empty, more are an Error. */
    void row(std::vector<std::string> cells);

    bool empty() const { return rows_.empty(); }
    /** Every line with `indent` spaces before and a newline after. */
    std::string render(std::size_t indent = 0) const;

  private:
    std::string line(const std::vector<std::string>& cells,
                     std::size_t indent) const;

    std::vector<Column> columns_;
    std::vector<std::size_t> widths_;
    std::vector<std::vector<std::string>> rows_;
};

} // namespace airlock
