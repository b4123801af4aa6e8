#include "common/secret.hpp"
#include "common/sha256.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace airlock
{
namespace
{

using testing::Each;
using testing::Eq;

static_assert(!std::is_copy_constructible_v<Secret>);
static_assert(!std::is_copy_assignable_v<Secret>);
static_assert(!std::equality_comparable<Secret>);
static_assert(!fmt::is_formattable<Secret>());

template <typename T>
concept Printable = requires(std::ostream& out, const T& it)
{
    out << it;
};
static_assert(!Printable<Secret>);

TEST(Secret, MovesAndIsEmptyAfterwards)
{
    Secret one = Secret::random(8);
    const Bytes was(one.view().begin(), one.view().end());
    Secret two = std::move(one);
    EXPECT_TRUE(one.empty()); // NOLINT: that is what is tested
    EXPECT_TRUE(one.view().empty());
    EXPECT_TRUE(two.equals(was));
    two = Secret();
    EXPECT_TRUE(two.empty());
    EXPECT_FALSE(Secret(8).equals(was));
}

TEST(Secret, IsCopiedByNameOnly)
{
    const Secret one = Secret::random();
    const Secret other(one.view());
    EXPECT_TRUE(other.equals(one.view()));
    EXPECT_NE(other.view().data(), one.view().data());
}

TEST(Secret, KeysAreOfOneSize)
{
    const Bytes right(32, 7);
    EXPECT_TRUE(Secret::key(right, "x").equals(right));
    EXPECT_THROW(Secret::key(Bytes(31), "x"), Refused);
    EXPECT_THROW(Secret::key(Bytes(33), "x"), Refused);
    EXPECT_THROW(Secret::key({}, "x"), Refused);
}

TEST(Secret, PartsAreJoinedInOrder)
{
    const Secret one(Bytes{1, 2});
    const Secret two(Bytes{3, 4});
    EXPECT_TRUE(Secret::join({&one, &two}, 2).equals(Bytes{1, 2, 3, 4}));
    const Secret none;
    EXPECT_THROW(Secret::join({&one, &none}, 2), Error);
    const Secret longer(Bytes{1, 2, 3});
    const Secret shorter(Bytes{4});
    EXPECT_THROW(Secret::join({&longer, &shorter}, 2), Error);
}

TEST(Wipe, LeavesNothing)
{
    Bytes bytes(64, 0xab);
    wipe(bytes);
    EXPECT_THAT(bytes, Each(Eq(0)));
    Digest digest;
    digest.fill(0xab);
    {
        const WipeAtEnd wiped(digest);
    }
    EXPECT_THAT(digest, Each(Eq(0)));
    Json json = {{"a", "text"}, {"b", {"more", 1}}};
    WipedJson::wipeTexts(json);
    EXPECT_EQ(json, Json({{"a", ""}, {"b", {"", 1}}}));
}

TEST(Hkdf, MatchesTheTestVectorOfRfc5869)
{
    // A.3: no salt, no info.
    const Secret key(Bytes(22, 0x0b));
    Bytes out(42);
    hkdf(key, {}, out);
    EXPECT_EQ(toHex(out), "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec345"
                          "4e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(Hkdf, WantsASecret)
{
    Bytes out(32);
    EXPECT_THROW(hkdf(Secret(), {}, out), Error);
    EXPECT_THROW(hkdf(Secret(15), {}, out), Error);
    EXPECT_THAT(out, Each(Eq(0)));
}

} // namespace
} // namespace airlock
