#pragma once

#include "bootsrv/machine/boot_choice.hpp"
#include "common/bytes.hpp"

#include <optional>
#include <string>
#include <vector>

/** The variables of a virtual machine's firmware (OVMF), in the file that is
 * its flash. */
namespace airlock::capsule
{

using machine::Guid;

struct Variable
{
    std::string name; ///< ASCII
    Guid vendor{};
    std::uint32_t attributes = 0;
    Bytes data;
};

/** The authenticated variable store of EDK II. The guest writes it too, so it
 * is read as what an attacker left. */
class VariableStore
{
  public:
    static constexpr std::size_t maxFile = 4U << 20;

    /** Refused naming `where` when it is no such store. */
    static VariableStore parse(Bytes image, std::string_view where);

    /** The variable that is in force. */
    std::optional<Variable> find(std::string_view name,
                                 const Guid& vendor) const;
    /** Adds one that is not there yet; Refused when it is, or does not fit. */
    void add(const Variable& variable);

    const Bytes& image() const { return image_; }

  private:
    explicit VariableStore(Bytes image) : image_(std::move(image)) {}

    Bytes image_;
    std::size_t first_ = 0; ///< where variables begin
    std::size_t free_ = 0;  ///< where the next one would begin
    std::size_t end_ = 0;
    std::vector<Variable> variables_;
};

/** Certificates (PEM) that decide what firmware starts. */
struct SecureBootKeys
{
    std::string platform; ///< PK: may change the others
    std::string exchange; ///< KEK
    std::string images;   ///< db: signs boot images
};

/** The flash of a new capsule: Secure Boot with these keys and no others, clean
 * mode first. `empty`: a store without variables, as Debian's package has. */
Bytes makeVariables(Bytes empty, const SecureBootKeys& keys);

/** Whether this mode is the one that firmware starts next, once. */
bool isNext(const Bytes& image, machine::Mode mode);

} // namespace airlock::capsule
