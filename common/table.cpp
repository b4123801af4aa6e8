#include "common/table.hpp"

#include "common/error.hpp"

#include <algorithm>

namespace airlock
{

Table::Table(std::vector<Column> columns) : columns_(std::move(columns))
{
    for (const Column& column : columns_)
    {
        widths_.push_back(column.title.size());
    }
}

void Table::row(std::vector<std::string> cells)
{
    if (cells.size() > columns_.size())
    {
        throw Error("a table row has more cells than the table has columns");
    }
    cells.resize(columns_.size());
    for (std::size_t i = 0; i < cells.size(); ++i)
    {
        for (char& c : cells[i])
        {
            c = c >= ' ' && c <= '~' ? c : '?';
        }
        widths_[i] = std::max(widths_[i], cells[i].size());
    }
    rows_.push_back(std::move(cells));
}

std::string Table::line(const std::vector<std::string>& cells,
                        std::size_t indent) const
{
    std::string out(indent, ' ');
    for (std::size_t i = 0; i < cells.size(); ++i)
    {
        std::string padding(widths_[i] - cells[i].size(), ' ');
        out += i == 0 ? "" : "  ";
        out += columns_[i].align == Align::left ? cells[i] + padding
                                                : padding + cells[i];
    }
    out.erase(out.find_last_not_of(' ') + 1);
    return out + "\n";
}

std::string Table::render(std::size_t indent) const
{
    std::vector<std::string> titles;
    std::vector<std::string> rules;
    for (std::size_t i = 0; i < columns_.size(); ++i)
    {
        titles.push_back(columns_[i].title);
        rules.emplace_back(widths_[i], '-');
    }
    std::string out = line(titles, indent) + line(rules, indent);
    for (const auto& row : rows_)
    {
        out += line(row, indent);
    }
    return out;
}

} // namespace airlock
