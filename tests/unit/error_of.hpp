#pragma once

#include "common/error.hpp"

#include <string>
#include <utility>

namespace airlock::test
{

/** What a call says when it throws an `Expected`; "" when it throws nothing.
 * Any other exception goes on, and fails the test. */
template <typename Expected = Refused, typename Call>
std::string errorOf(Call&& call)
{
    try
    {
        std::forward<Call>(call)();
    }
    catch (const Expected& error)
    {
        return error.what();
    }
    return "";
}

} // namespace airlock::test
