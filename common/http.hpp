#pragma once

#include "common/bytes.hpp"
#include "common/error.hpp"
#include "common/json.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/** What the HTTP client and server share. */
namespace airlock::http
{

/** An answer that is no success. Handlers of a server throw it; a client
 * throws it for what the server answered. */
class Problem : public Error
{
  public:
    Problem(unsigned status, std::string code, const std::string& message)
        : Error(message), status_(status), code_(std::move(code))
    {}

    unsigned status() const { return status_; } ///< "409"
    /** For programs: "not-receiving". Printable ASCII. */
    const std::string& code() const { return code_; }

    /** {"error": {"code": …, "message": …}} */
    Json toJson() const
    {
        return {{"error", {{"code", code_}, {"message", what()}}}};
    }

  private:
    unsigned status_;
    std::string code_;
};

inline constexpr const char* jsonType = "application/json";
inline constexpr const char* octetsType = "application/octet-stream";

} // namespace airlock::http
