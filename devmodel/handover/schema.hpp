#pragma once

#include "common/bytes.hpp"
#include "devmodel/handover/section.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

/** What one device section looks like, byte for byte, and its typed values.
 *
 * A Schema is a static table that a reviewer can hold against one
 * VMStateDescription of QEMU: same names, same order, same encodings
 * (migration/vmstate.c, migration/vmstate-types.c). parse() turns bytes into a
 * Record; serialise() turns a Record into bytes. For every section that
 * parse() accepts, serialise(parse(section)) gives the same bytes back.
 *
 * Nothing in the bytes can make the parser allocate, loop or recurse further
 * than the tables allow: each count is a constant or is bounded by one.
 */
namespace airlock::handover
{

class Record;
struct Schema;

/** How one field lies in the stream; all numbers are big-endian. */
enum class Encoding : std::uint8_t
{
    U8,
    U16,
    U32,
    U64,
    I32,    ///< sign-extended to 64 bits in the Record
    Bool,   ///< one byte, 0 or 1
    Bytes,  ///< a buffer, kept as it is
    Unused, ///< VMSTATE_UNUSED: zeros
    Struct, ///< another table, inline
};

/** One field of a table.
 *
 * `outer` in the two callbacks is the record that contains `self` (the record
 * under construction); for a section's top level both are the same. Callbacks
 * see only fields that were parsed before.
 */
struct Field
{
    using CountOf = std::uint64_t (*)(const Record& self, const Record& outer);
    using PresentIn = bool (*)(const Record& self, const Record& outer);

    std::string_view name; ///< as in QEMU; empty: a group, see Record
    Encoding encoding;
    std::uint32_t count = 1; ///< elements or bytes; the limit with countOf
    bool list = false;       ///< false: one value, not a list of one
    const Schema* structure = nullptr; ///< for Encoding::Struct
    CountOf countOf = nullptr;         ///< for lists with a variable length
    PresentIn presentIn = nullptr;     ///< for fields that may be absent
    std::string_view refusal = {};     ///< if set: why it must be zero
};

/** A subsection: 0x05, length, name, be32 version, fields (vmstate.c:
 * vmstate_subsection_save). Each is optional; their order is the table's. */
struct Subsection
{
    std::string_view name;
    const Schema* schema = nullptr; ///< null: known to QEMU, never admitted
    std::string_view refusal = {};  ///< why, if schema is null
};

/** One VMStateDescription, or (without a name) a group of fields that QEMU
 * writes by hand between two of them. */
struct Schema
{
    std::string_view name;
    std::uint32_t version = 0;
    std::span<const Field> fields;
    std::span<const Subsection> subsections = {};
};

/** Rows of a table whose fields are all numbers of fixed count: for arrays of
 * small structs, of which virtio has a thousand per device. */
class Rows
{
  public:
    Rows(const Schema& row, std::size_t count);

    const Schema& row() const { return *row_; }
    std::size_t size() const { return size_; }
    /** Where a field (or its i-th element) is in each row. */
    std::size_t column(std::string_view name, std::size_t element = 0) const;

    std::uint64_t at(std::size_t row, std::size_t column) const
    {
        return cells_.at(row * width_ + column);
    }
    std::uint64_t& at(std::size_t row, std::size_t column)
    {
        return cells_.at(row * width_ + column);
    }
    std::uint64_t at(std::size_t row, std::string_view name) const
    {
        return at(row, column(name));
    }

    std::span<const std::uint64_t> cells() const { return cells_; }
    std::span<std::uint64_t> cells() { return cells_; }
    std::size_t width() const { return width_; }

    bool operator==(const Rows& other) const
    {
        return row_ == other.row_ && cells_ == other.cells_;
    }

  private:
    const Schema* row_;
    std::size_t size_;
    std::size_t width_;
    std::vector<std::uint64_t> cells_;
};

using Numbers = std::vector<std::uint64_t>;

/** The typed values of one table.
 *
 * Fields are found by name. A field without a name is a group: its fields are
 * found as if they were the record's own. Asking for a field that the table
 * does not have, or has with another type, or that is absent here, is a
 * programming error and throws std::logic_error.
 */
class Record
{
  public:
    using Value = std::variant<std::monostate, std::uint64_t, Numbers, Bytes,
                               Rows, std::vector<Record>>;

    explicit Record(const Schema& schema);

    const Schema& schema() const { return *schema_; }

    /** Whether the field is in the stream here. */
    bool has(std::string_view name) const { return find(name) != nullptr; }

    std::uint64_t number(std::string_view name) const;
    std::int64_t signedNumber(std::string_view name) const
    {
        return static_cast<std::int64_t>(number(name));
    }
    const Numbers& numbers(std::string_view name) const;
    const Bytes& bytes(std::string_view name) const;
    const Rows& rows(std::string_view name) const;
    const Record& record(std::string_view name) const;
    /** The subsection of that name, or null if it is not there. */
    const Record* subsection(std::string_view name) const;

    std::uint64_t& number(std::string_view name);
    Numbers& numbers(std::string_view name);
    Bytes& bytes(std::string_view name);
    Rows& rows(std::string_view name);
    Record& record(std::string_view name);
    Record* subsection(std::string_view name);

    std::span<const Value> values() const { return values_; }
    std::span<Value> values() { return values_; }
    const std::vector<Record>& subsections() const { return subsections_; }
    std::vector<Record>& subsections() { return subsections_; }

    bool operator==(const Record& other) const
    {
        return schema_ == other.schema_ && values_ == other.values_ &&
               subsections_ == other.subsections_;
    }

  private:
    const Value* find(std::string_view name) const;
    template <typename T>
    const T& get(std::string_view name) const;

    const Schema* schema_;
    std::vector<Value> values_; ///< one per field of the table
    std::vector<Record> subsections_;
};

/** Reads one table from the reader, which then stands behind it.
 *
 * Throws Refused naming section and field if the bytes are cut short, if a
 * count is over its limit, if a byte that must be 0 or 1 is not, if unused
 * bytes are not zero, or if a subsection is unknown, repeated, out of order,
 * of another version, or never admitted.
 */
Record parse(ByteReader& reader, const Schema& schema);

/** Parses a whole section by its name and version; nothing may be left over.
 * Throws Refused also if the project has no table for it. */
Record parseSection(const Section& section);

Bytes serialise(const Record& record);

/** The number of bytes at the start of `rest` that belong to the section; for
 * streams in which nothing else says where a section ends. */
std::size_t sectionSize(const SectionId& id, ByteView rest);

/** The table for a section, or null. The version must be the one that QEMU
 * 10.0 writes. */
const Schema* findSchema(const SectionId& id);

/** One value with its full name, for people and for comparing records:
 * "env.segs[1].base" = "0x0". */
struct Leaf
{
    std::string path;
    std::string value;
    bool operator==(const Leaf&) const = default;
};
std::vector<Leaf> leaves(const Record& record);

} // namespace airlock::handover
