#pragma once

#include "common/file.hpp"
#include "error_of.hpp"

#include <gtest/gtest.h>

#include <string>

namespace airlock::test
{

/** A configuration file and what its reader makes of it. */
template <auto readConfig>
class ConfigCase : public testing::Test
{
  protected:
    explicit ConfigCase(const char* name) : path_(directory_.path() / name) {}

    auto read(const std::string& text)
    {
        writeFileAtomic(path_, text);
        return readConfig(path_);
    }

    std::string refusal(const std::string& text)
    {
        return errorOf<Error>([&] { read(text); });
    }

  private:
    TempDirectory directory_;
    std::filesystem::path path_;
};

} // namespace airlock::test
