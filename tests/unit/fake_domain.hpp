#pragma once

#include "common/file.hpp"
#include "hostagent/hypervisor/domain.hpp"

#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

namespace airlock::test
{

/** A domain without a hypervisor: a reset trap, two disks and a network card,
 * of which a test says what they do. */
class FakeDomain : public host::Domain
{
  public:
    static constexpr std::uint64_t diskBytes = 1U << 20;
    static constexpr std::uint64_t memoryBytes = 64U << 20;

    // What a test sets.
    host::RunState runState = host::RunState::paused;
    bool trapped = true;
    bool loaded = false;
    bool atStub = true;
    bool ran = false;
    std::uint64_t life = 1; ///< number of its QEMU process
    std::uint64_t traps = 1;
    bool dataReadOnly = true;
    std::string source = "/images/root.raw";
    std::string nicElements;    ///< more of its network card
    std::string deviceElements; ///< more devices
    /** Called before each command, may throw. */
    std::function<void(const std::string& command)> onCommand;

    // What a test looks at.
    std::vector<std::string> commands;
    std::vector<Bytes> applied;
    unsigned resumed = 0;

    const std::string& uuid() const override { return uuid_; }
    const std::string& name() const override { return name_; }
    host::RunState state() const override { return runState; }
    int id() const override { return runState == host::RunState::off ? -1 : 1; }

    void resume() override
    {
        if (runState == host::RunState::running)
        {
            throw host::LibvirtError("domain is already running", 0);
        }
        goOn();
    }

    void goOn()
    {
        resumed++;
        runState = host::RunState::running;
        loaded = false;
        ran = ran || !atStub;
    }

    // What happens to a QEMU.
    void isTrapped()
    {
        trapped = atStub = true;
        loaded = false;
        runState = host::RunState::paused;
    }

    void isLoaded()
    {
        trapped = atStub = ran = false;
        loaded = true;
        runState = host::RunState::paused;
    }

    void runs()
    {
        trapped = atStub = loaded = false;
        ran = true;
        runState = host::RunState::running;
    }

    /** Started, and the stub has not run yet. */
    void isStarted(host::RunState state)
    {
        life++;
        trapped = loaded = ran = false;
        atStub = true;
        runState = state;
    }

    std::string xml() const override
    {
        return fmt::format(
            R"(<domain type='qemu'>
  <name>{}</name>
  <uuid>{}</uuid>
  <memory unit='KiB'>{}</memory>
  <currentMemory unit='KiB'>{}</currentMemory>
  <memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>
  <vcpu placement='static'>1</vcpu>
  <os><type arch='x86_64' machine='airlock-1.0'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>Nehalem</model>
    <topology sockets='1' dies='1' cores='1' threads='1'/>
  </cpu>
  <clock offset='utc'/>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/lib/airlock/qemu</emulator>
    {}{}
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' index='0' model='none'/>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <alias name='net0'/>{}
      <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
    </interface>
    {}
    <audio id='1' type='none'/>
    <memballoon model='none'/>
  </devices>
</domain>)",
            name_, uuid_, memoryBytes >> 10, memoryBytes >> 10,
            disk("vda", source, "0x08", 0, false),
            disk("vdb", "/images/data.raw", "0x09", 1, dataReadOnly),
            nicElements, deviceElements);
    }

    Json execute(std::string_view command, const Json& arguments,
                 Milliseconds /*timeout*/) override
    {
        note(command);
        if (command == "__internal.airlock_query-trap")
        {
            return trapInfo();
        }
        if (command == "query-status")
        {
            bool waits = trapped || loaded;
            return {{"running", !waits && runState == host::RunState::running}};
        }
        if (command == "cont")
        {
            cont();
            return Json::object();
        }
        if (command == "query-block")
        {
            return {block(0, false), block(1, dataReadOnly)};
        }
        if (command == "set_link" || command == "__internal.airlock_apply")
        {
            commands.back() += " " + dumpJson(arguments);
            return Json::object();
        }
        throw QmpError(command, "CommandNotFound", "not in this fake");
    }

    Json executeWithFd(std::string_view command, const Json& arguments, int fd,
                       Milliseconds /*timeout*/) override
    {
        note(command);
        if (arguments.at("fdname") == "delta")
        {
            applied.push_back(readFile(fd, 1U << 20, "delta"));
        }
        return Json::object();
    }

    Json executeInGuest(std::string_view command, const Json& /*arguments*/,
                        std::chrono::seconds /*timeout*/) override
    {
        throw host::LibvirtError(std::string(command) + ": no agent", 0);
    }

  private:
    static std::string disk(const char* target, const std::string& file,
                            const char* slot, int index, bool readOnly)
    {
        return fmt::format(R"(<disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{}'/>
      <target dev='{}' bus='virtio'/>{}
      <alias name='virtio-disk{}'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='{}' function='0x0'/>
    </disk>)",
                           file, target, readOnly ? "<readonly/>" : "", index,
                           slot);
    }

    static Json block(int index, bool readOnly)
    {
        return {{"qdev",
                 fmt::format("/machine/peripheral/virtio-disk{}/virtio-backend",
                             index)},
                {"inserted",
                 {{"node-name", fmt::format("node{}", index)},
                  {"ro", readOnly},
                  {"image", {{"virtual-size", diskBytes}}}}}};
    }

    /** The stub of a trapped one traps again, and libvirt hears of it. */
    void cont()
    {
        if (trapped)
        {
            runState = host::RunState::paused;
        }
        else
        {
            goOn();
        }
    }

    void note(std::string_view command)
    {
        commands.emplace_back(command);
        if (onCommand)
        {
            onCommand(commands.back());
        }
    }

    Json trapInfo() const
    {
        Json out = {{"trapped", trapped}, {"loaded", loaded},
                    {"at-stub", atStub},  {"ran", ran},
                    {"life", life},       {"count", traps}};
        if (trapped)
        {
            out["cause"] = "cold-start";
            out["vcpu"] = 0;
        }
        return out;
    }

    std::string uuid_ = "3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d11";
    std::string name_ = "demo";
};

} // namespace airlock::test
