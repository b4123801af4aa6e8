#pragma once

#include <filesystem>
#include <string>

namespace airlock::ctl
{

/** What an operator wants to know of a certificate. */
struct Certificate
{
    std::string name; ///< common name
    std::string role; ///< organizational unit
    int daysLeft = 0; ///< negative when it is over
};

/** Reads the first certificate of a PEM file. Throws Error. */
Certificate readCertificate(const std::filesystem::path& file);

} // namespace airlock::ctl
