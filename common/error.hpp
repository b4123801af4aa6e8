#pragma once

#include <cerrno>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace airlock
{

/** Something went wrong that the caller cannot repair here.
 *
 * The text says what failed, where, and what to do about it. It is written
 * for an operator: no function names, no addresses.
 */
class Error : public std::runtime_error
{
  public:
    using std::runtime_error::runtime_error;
};

/** A system call failed: `what` with the text of the errno, and its code. */
class SystemError : public Error
{
  public:
    SystemError(const std::string& what, int code)
        : Error(what + ": " + std::generic_category().message(code)),
          code_(code)
    {}

    int code() const { return code_; }

  private:
    int code_;
};

/** A peer, a guest or a child did not do what was waited for in time. */
class TimedOut : public Error
{
  public:
    using Error::Error;
};

/** Input from outside (a guest, a boot host, a file, a peer) was refused.
 *
 * `where` names the part of the input, for example "cpu/1: env.cr[0]" or
 * "manifest: job.nonce"; `reason` says what is wrong with it. Both may quote
 * the input only in a bounded, printable form.
 */
class Refused : public Error
{
  public:
    Refused(std::string_view where, std::string_view reason)
        : Error(std::string(where) + ": " + std::string(reason)), where_(where),
          reason_(reason)
    {}

    const std::string& where() const { return where_; }
    const std::string& reason() const { return reason_; }

  private:
    std::string where_;
    std::string reason_;
};

/** Throws SystemError for the current errno. */
[[noreturn]] inline void throwErrno(const std::string& what)
{
    throw SystemError(what, errno);
}

} // namespace airlock
