#include "tests/modes/dirty_attacks.hpp"

#include "bootsrv/machine/boot_choice.hpp"
#include "bootsrv/machine/init.hpp"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

namespace airlock::probe
{

namespace
{

machine::SealRecord record()
{
    return machine::SealStore(machine::findPartition(machine::sealLabel,
                                                     std::chrono::seconds(5)))
        .read();
}

std::string publicKey()
{
    return textOf("/policy.pem") + "\n";
}

/** All that the TPM can be asked for with what lies around. */
void unseal()
{
    const trust::Tpm tpm(tpmDevice);
    const trust::PolicyKey key =
        trust::PolicyKey::fromPem(publicKey(), "policy key");
    const machine::SealRecord all = record();
    say("unseal", errorOf([&] {
            trust::UnsealSession(tpm, key, all.policies.at(0))
                .unseal(*all.blob, key);
        }));
    say("authorizations", errorOf([&] {
            trust::UnsealSession(tpm, key, all.policies.at(0))
                .unseal(*all.authorizations, key);
        }));
}

void writeVariable(const std::string& name, ByteView data)
{
    const std::string file =
        "/sys/firmware/efi/efivars/" + name + "-" + machine::globalVariables;
    Bytes content = {7, 0, 0, 0};
    content.insert(content.end(), data.begin(), data.end());
    if (std::filesystem::exists(file))
    {
        int flags = 0;
        UniqueFd fd = openFile(file, O_RDONLY);
        ::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags);
    }
    UniqueFd fd = openFile(file, O_WRONLY | O_CREAT);
    if (::write(fd.get(), content.data(), content.size()) < 0)
    {
        throwErrno("cannot write " + name);
    }
}

/** Another command line for clean mode. */
void options()
{
    Bytes option = machine::loadOption(machine::Mode::clean);
    const Bytes line = machine::utf16("console=ttyS0 rdinit=/evil");
    option.insert(option.end(), line.begin(), line.end());
    option.insert(option.end(), {0, 0});
    writeVariable(machine::bootVariable(machine::Mode::clean), option);
    say("options", "written");
}

/** Dirty mode for ever. */
void bootOrder()
{
    const std::array<machine::Mode, 1> order = {machine::Mode::dirty};
    writeVariable("BootOrder", machine::bootList(order));
    say("boot order", "dirty");
}

/** Secure Boot's keys, without their private halves. */
void secureBoot()
{
    say("secure boot", errorOf([] { writeVariable("PK", Bytes(64, 0)); }));
}

/** Clean mode next, once. */
void cleanNext()
{
    const std::array<machine::Mode, 1> next = {machine::Mode::clean};
    writeVariable("BootNext", machine::bootList(next));
    say("next", "clean");
}

void network()
{
    std::string found;
    for (const auto& entry :
         std::filesystem::directory_iterator("/sys/class/net"))
    {
        found += " " + entry.path().filename().string();
    }
    say("network", found);
}

/** To enrol anew, with a root that the attacker knows and a signature by a key
 * of its own. */
void request()
{
    const machine::SealStore store(
        machine::findPartition(machine::sealLabel, std::chrono::seconds(5)));
    machine::SealRecord all = store.read();
    all.request.emplace();
    all.request->name = "evil";
    all.request->addressRoot = Secret(32);
    all.request->sign(trust::makeKey(), all.policies.at(0).state.generation,
                      all.target.value());
    store.write(all);
    say("request", "left");
}

/** No partition that clean mode would look at. */
void wipe()
{
    const std::filesystem::path seal =
        machine::findPartition(machine::sealLabel, std::chrono::seconds(5));
    UniqueFd fd = openFile(seal, O_WRONLY);
    writeAllAt(fd.get(), Bytes(machine::SealStore::size), 0);
    ::fsync(fd.get());
    say("wipe", "done");
}

void hang()
{
    say("holding", "yes");
    for (;;)
    {
        ::pause();
    }
}

} // namespace

const std::map<std::string, void (*)()>& dirtyAttacks()
{
    static const std::map<std::string, void (*)()> all = {
        {"unseal", unseal},
        {"options", options},
        {"boot-order", bootOrder},
        {"network", network},
        {"secure-boot", secureBoot},
        {"request", request},
        {"wipe", wipe},
        {"hang", hang},
        {"clean-next", cleanNext},
    };
    return all;
}

} // namespace airlock::probe
