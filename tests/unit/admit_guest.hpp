#pragma once

#include "tests/unit/recorded_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <ostream>
#include <string>

/** Tests that spoil one thing in a recorded guest. */
namespace airlock::test
{

/** One way to spoil one section, and what the refusal has to say. */
struct Spoil
{
    std::string name; ///< of the test
    std::string section;
    std::string expected; ///< part of the message
    std::function<void(handover::Record&)> change;
    std::uint32_t instance = 0;
    /** What else is different; the guest is admitted with it alone. */
    std::function<void(Guest&)> before = {};
};

/** "0000:00:02.0/virtio-blk" and "x y" make names that gtest takes. */
inline std::string testName(std::string name)
{
    std::ranges::replace_if(
        name,
        [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); },
        '_');
    return name;
}

inline void PrintTo(const Spoil& spoil, std::ostream* out)
{
    *out << spoil.name << " of " << spoil.section;
}

inline std::string spoilName(const testing::TestParamInfo<Spoil>& spoil)
{
    return spoil.param.name;
}

/** For suites of spoiled guests. */
class Spoiled : public testing::TestWithParam<Spoil>
{
  protected:
    void refuses()
    {
        Guest guest;
        if (GetParam().before)
        {
            GetParam().before(guest);
            ASSERT_EQ(guest.refused(), "");
        }
        guest.change(GetParam().section, GetParam().change,
                     GetParam().instance);
        EXPECT_THAT(guest.refused(), testing::HasSubstr(GetParam().expected));
    }
};

} // namespace airlock::test
