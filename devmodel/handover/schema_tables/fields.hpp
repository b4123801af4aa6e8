#pragma once

#include "devmodel/handover/schema.hpp"

/** Short names for writing tables, after QEMU's VMSTATE_ macros. */
namespace airlock::handover::tables
{

constexpr Field number(std::string_view name, Encoding encoding)
{
    return {.name = name, .encoding = encoding};
}
constexpr Field u8(std::string_view name)
{
    return number(name, Encoding::U8);
}
constexpr Field u16(std::string_view name)
{
    return number(name, Encoding::U16);
}
constexpr Field u32(std::string_view name)
{
    return number(name, Encoding::U32);
}
constexpr Field u64(std::string_view name)
{
    return number(name, Encoding::U64);
}
constexpr Field i32(std::string_view name)
{
    return number(name, Encoding::I32);
}
/** 64-bit numbers need no sign extension; read them with signedNumber(). */
constexpr Field i64(std::string_view name)
{
    return number(name, Encoding::U64);
}
constexpr Field boolean(std::string_view name)
{
    return number(name, Encoding::Bool);
}

constexpr Field numbers(std::string_view name, Encoding encoding,
                        std::uint32_t count)
{
    return {.name = name, .encoding = encoding, .count = count, .list = true};
}
constexpr Field bytes(std::string_view name, std::uint32_t count)
{
    return {.name = name, .encoding = Encoding::Bytes, .count = count};
}
constexpr Field unused(std::uint32_t count)
{
    return {.name = "unused", .encoding = Encoding::Unused, .count = count};
}

constexpr Field structure(std::string_view name, const Schema& schema)
{
    return {.name = name, .encoding = Encoding::Struct, .structure = &schema};
}
/** Fields that QEMU writes in line without a structure around them. */
constexpr Field group(const Schema& schema)
{
    return structure("", schema);
}
constexpr Field structures(std::string_view name, std::uint32_t count,
                           const Schema& schema)
{
    return {.name = name,
            .encoding = Encoding::Struct,
            .count = count,
            .list = true,
            .structure = &schema};
}

/** A list whose length is known only from what was read before; the count
 * that the field has becomes its limit. */
constexpr Field counted(Field field, Field::CountOf countOf)
{
    field.countOf = countOf;
    return field;
}
constexpr Field presentIf(Field field, Field::PresentIn presentIn)
{
    field.presentIn = presentIn;
    return field;
}
/** A number that must be zero, because what would follow another value is
 * never admitted. */
constexpr Field mustBeZero(Field field, std::string_view reason)
{
    field.refusal = reason;
    return field;
}

constexpr Subsection admitted(const Schema& schema)
{
    return {.name = schema.name, .schema = &schema};
}
constexpr Subsection refused(std::string_view name, std::string_view reason)
{
    return {.name = name, .refusal = reason};
}

} // namespace airlock::handover::tables
