#include "common/error.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::host
{
namespace
{

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/** As libvirt gives it for a running domain. */
const std::string live = R"(<domain type='qemu' id='2'>
  <name>demo</name>
  <uuid>3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d11</uuid>
  <metadata>
    <a:domain xmlns:a="urn:airlock:domain:1">
      <a:booted policy="serial:login: $"/>
      <a:limit seconds="600"/>
      <a:tenant name="green"/>
      <a:server name="boot1" weight="3"/>
      <a:server name="boot2"/>
      <a:server name="boot3" weight="0"/>
    </a:domain>
  </metadata>
  <memory unit='KiB'>1048576</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <memoryBacking>
    <source type='file'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='airlock-1.0'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>Nehalem</model>
    <topology sockets='1' dies='1' cores='2' threads='1'/>
  </cpu>
  <clock offset='utc'/>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/lib/airlock/qemu</emulator>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg/data' index='1'/>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
      <readonly/>
      <alias name='virtio-disk1'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x09' function='0x0'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/var/lib/libvirt/images/demo.qcow2' index='2'/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x08' function='0x0'/>
    </disk>
    <controller type='pci' index='0' model='pcie-root'>
      <alias name='pcie.0'/>
    </controller>
    <controller type='usb' index='0' model='none'>
      <alias name='usb'/>
    </controller>
    <controller type='virtio-serial' index='0' ports='1'>
      <alias name='virtio-serial0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </controller>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <alias name='net0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
    </interface>
    <console type='pty' tty='/dev/pts/0'>
      <source path='/dev/pts/0'/>
      <target type='virtio' port='0'/>
      <alias name='console0'/>
    </console>
    <input type='mouse' bus='ps2'/>
    <input type='keyboard' bus='ps2'/>
    <audio id='1' type='none'/>
    <memballoon model='none'/>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
      <alias name='rng0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x03' function='0x0'/>
    </rng>
  </devices>
  <seclabel type='none' model='none'/>
</domain>
)";

std::string with(const std::string& from, const std::string& to)
{
    std::string out = live;
    std::size_t at = out.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return out.replace(at, from.size(), to);
}

TEST(DomainSpec, ReadsAnAirlockDomain)
{
    ASSERT_TRUE(isAirlockDomain(live));
    EXPECT_EQ(domainName(live), "demo");
    DomainSpec spec = parseDomain(live);
    EXPECT_EQ(spec.name, "demo");
    EXPECT_EQ(spec.uuid, "3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d11");
    EXPECT_EQ(spec.vcpus, 2U);
    EXPECT_EQ(spec.memory, 1ULL << 30);
    EXPECT_EQ(spec.cpuModel, "Nehalem");
    EXPECT_EQ(spec.accelerator, vm::Accelerator::tcg);
    EXPECT_EQ(spec.emulator, "/usr/lib/airlock/qemu");
    ASSERT_EQ(spec.disks.size(), 2U);
    EXPECT_EQ(spec.disks[0].target, "vda");
    EXPECT_EQ(spec.disks[0].alias, "virtio-disk0");
    EXPECT_EQ(spec.disks[0].format, "qcow2");
    EXPECT_FALSE(spec.disks[0].readOnly);
    EXPECT_EQ(spec.disks[1].source, "/dev/vg/data");
    EXPECT_TRUE(spec.disks[1].readOnly);
    ASSERT_EQ(spec.nics.size(), 1U);
    EXPECT_EQ(spec.nics[0].mac, "52:54:00:12:34:56");
    EXPECT_EQ(spec.nics[0].alias, "net0");
    EXPECT_TRUE(spec.console);
    EXPECT_EQ(spec.consoleAlias, "console0");
    EXPECT_TRUE(spec.rng);
}

TEST(DomainSpec, ReadsTheSettingsOfItsOperator)
{
    DomainSettings settings = parseDomain(live).settings;
    EXPECT_EQ(settings.booted, "serial:login: $");
    EXPECT_EQ(settings.limit, std::chrono::seconds(600));
    EXPECT_EQ(settings.tenant, "green");
    ASSERT_EQ(settings.servers.size(), 3U);
    EXPECT_EQ(settings.servers[0].weight, 3U);
    EXPECT_EQ(settings.servers[1].weight, 1U);
    EXPECT_EQ(settings.servers[2].weight, 0U);
    DomainSettings none =
        parseDomain(with("urn:airlock:domain:1", "urn:other")).settings;
    EXPECT_EQ(none.booted, std::nullopt);
    EXPECT_EQ(none.tenant, "");
}

TEST(DomainSpec, IsTheSameMachineAsTheBootMachines)
{
    vm::GuestSpec guest = parseDomain(live).guest();
    EXPECT_NO_THROW(vm::validate(guest));
    EXPECT_THAT(vm::deviceList(guest),
                ::testing::ElementsAre(
                    "virtio-serial-pci@00:02.0", "virtio-rng-pci@00:03.0",
                    "virtio-net-pci@00:04.0", "virtio-blk-pci@00:08.0",
                    "virtio-blk-pci@00:09.0"));
    EXPECT_EQ(guest.disks[1].image, "/dev/vg/data");
    EXPECT_TRUE(guest.disks[1].readOnly);
}

struct Broken
{
    const char* from;
    const char* to;
    const char* where;
    const char* reason;
};

class Refusal : public ::testing::TestWithParam<Broken>
{};

TEST_P(Refusal, NamesElementAndReason)
{
    std::string xml = with(GetParam().from, GetParam().to);
    EXPECT_THAT([&] { parseDomain(xml); },
                ThrowsMessage<Refused>(AllOf(HasSubstr(GetParam().where),
                                             HasSubstr(GetParam().reason))));
}

const Broken broken[] = {
    {"airlock-1.0", "pc-q35-7.2", "os/type", "machine"},
    {"type='qemu' id", "type='xen' id", "domain", "'kvm' or 'qemu'"},
    {"mode='custom'", "mode='host-model'", "cpu", "mode"},
    {"<uuid>3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d11</uuid>", "", "domain", "uuid"},
    {"<name>demo", "<name>de,mo", "domain", "name"},
    {"cores='2'", "cores='1'", "topology", "cores"},
    {"sockets='1'", "sockets='2'", "topology", "sockets"},
    {"</cpu>", "<feature policy='require' name='vmx'/></cpu>", "cpu/feature",
     "nothing else"},
    {"<apic/>", "<apic/><smm state='on'/>", "features/smm", "nothing else"},
    {">restart<", ">destroy<", "on_reboot", "restart"},
    {"<source type='file'/>", "<source type='memfd'/>", "memoryBacking/source",
     "file"},
    {"<source type='file'/>", "<source type='file'/><hugepages/>",
     "memoryBacking/hugepages", "ordinary"},
    {"mode='shared'", "mode='private'", "memoryBacking/access", "shared"},
    {"<currentMemory unit='KiB'>1048576", "<currentMemory unit='KiB'>524288",
     "currentMemory", "balloon"},
    {"<memory unit='KiB'>1048576", "<memory unit='KiB'>1048577",
     "currentMemory", "whole"},
    {"<memory unit='KiB'>", "<memory unit='firkin'>", "memory", "firkin"},
    {"<memory unit='KiB'>1048576", "<memory unit='TiB'>99999999999999999999",
     "memory", "no size"},
    {"static'>2", "static'>0", "vcpu", "1 to 64"},
    {"<boot dev='hd'/>", "<loader>/x</loader>", "os/loader", "firmware"},
    {"slot='0x08'", "slot='0x0a'", "devices", "0x09"},
    {"slot='0x08'", "slot='0x09'", "devices/disk", "same PCI address"},
    {"slot='0x04'", "slot='0x05'", "devices", "0x04"},
    {"slot='0x03'", "slot='0x01'", "devices/rng", "0x01"},
    {"bus='0x00' slot='0x03'", "bus='0x01' slot='0x03'", "devices/rng", "bus"},
    {"slot='0x02'", "slot='99'", "devices/controller", "slot"},
    {"ports='1'", "ports='31'", "controller", "ports"},
    {"type='virtio' port='0'", "type='serial' port='0'", "console", "virtio"},
    {"type='virtio' port='0'", "type='virtio' port='1'", "console", "port 0"},
    {"<model type='virtio'/>", "<model type='e1000'/>", "interface/model",
     "virtio"},
    {"<interface type='bridge'>", "<interface type='hostdev'>", "interface",
     "hostdev"},
    {"<driver name='qemu'/>", "<driver name='vhost'/>", "interface/driver",
     "qemu"},
    {"<driver name='qemu'/>", "<driver name='qemu' queues='4'/>",
     "interface/driver", "queues"},
    {"<driver name='qemu'/>", "<driver name='qemu'><host gso='off'/></driver>",
     "interface/driver", "offloads"},
    {"<target dev='vnet0'/>", "<mtu size='1400'/>", "interface/mtu", "guest"},
    {"discard='unmap'", "queues='2'", "driver", "queues"},
    {"discard='unmap'", "cache='writethrough'", "driver", "cache"},
    {"<backingStore/>", "<serial>abc</serial>", "serial", "guest"},
    {"type='qcow2'", "type='vmdk'", "disk[2]", "raw or qcow2"},
    {"device='disk'", "device='cdrom'", "disk[1]", "device"},
    {"bus='virtio'", "bus='sata'", "disk[1]/target", "bus"},
    {"model='pcie-root'", "model='pcie-root-port'", "controller", "no such"},
    {"<memballoon model='none'/>", "<memballoon model='virtio'/>", "memballoon",
     "none"},
    {"<memballoon model='none'/>", "<tpm model='tpm-crb'/>", "devices/tpm",
     "no such device"},
    {"type='mouse' bus='ps2'", "type='tablet' bus='usb'", "devices/input",
     "ps2"},
    {"<seclabel", "<qemu:commandline/><seclabel", "qemu:commandline",
     "beside libvirt"},
    {"policy=\"serial:login: $\"", "policy=\"when-done\"", "booted", "none of"},
    {"policy=\"serial:login: $\"", "policy=\"idle:x\"", "booted", "seconds"},
    // What a boot server would refuse at the next reboot.
    {"policy=\"serial:login: $\"", "policy=\"serial:l\303\266gin\"", "booted",
     "printable ASCII"},
    {"policy=\"serial:login: $\"", "policy=\"serial:(login\"", "booted",
     "regular expression"},
    {"name=\"green\"", "name=\"gr\303\274n\"", "tenant", "printable ASCII"},
    {"seconds=\"600\"", "seconds=\"0\"", "limit", "seconds"},
    {"weight=\"3\"", "weight=\"-3\"", "server", "weight"},
};

INSTANTIATE_TEST_SUITE_P(DomainSpec, Refusal, ::testing::ValuesIn(broken));

TEST(DomainXml, HostileTextsAreRefused)
{
    for (const std::string& text : {
             std::string(),
             std::string("<"),
             std::string("junk"),
             std::string("<domain>"),
             std::string("<network/>"),
             std::string("<domain/><domain/>"),
             std::string("<domain/>\0", 10),
             std::string("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>"),
             "<domain>" + std::string(5U << 20, ' ') + "</domain>",
         })
    {
        EXPECT_THROW(isAirlockDomain(text), Refused) << text.substr(0, 60);
    }
    std::string deep = "<domain>";
    std::string wide = "<domain>";
    for (int i = 0; i < 100; i++)
    {
        deep += "<a>";
    }
    for (int i = 0; i < 100; i++)
    {
        deep += "</a>";
    }
    for (int i = 0; i < 60000; i++)
    {
        wide += "<a/>";
    }
    EXPECT_THAT([&] { isAirlockDomain(deep + "</domain>"); },
                ThrowsMessage<Refused>(HasSubstr("deeper")));
    EXPECT_THAT([&] { isAirlockDomain(wide + "</domain>"); },
                ThrowsMessage<Refused>(HasSubstr("more than 50000")));
}

TEST(DomainXml, OtherDomainsAreNotOurs)
{
    EXPECT_FALSE(isAirlockDomain("<domain type='kvm'><os><type "
                                 "machine='q35'>hvm</type></os></domain>"));
    EXPECT_FALSE(isAirlockDomain("<domain/>"));
}

TEST(DomainXml, AnUnknownPolicyIsRefused)
{
    for (const char* good :
         {"shell", "guest-agent", "idle:5", "after:60", "serial:x"})
    {
        EXPECT_NO_THROW(checkBootedPolicy(good)) << good;
    }
    for (const char* bad : {"", "idle", "idle:", "idle:0", "idle:99999999",
                            "serial:", "shell:x", "after:-1"})
    {
        EXPECT_THROW(checkBootedPolicy(bad), Refused) << bad;
    }
}

} // namespace
} // namespace airlock::host
