#include "options.hpp"

#include "devmodel/vm/qemu_argv.hpp"

#include <CLI/CLI.hpp>

namespace airlock::demo
{

ParsedOptions parseOptions(int argc, char** argv)
{
    ParsedOptions out;
    Options& options = out.options;
    options.build = vm::defaultBuildDirectory();
    std::string kernel = "standard";

    CLI::App app{"Boots a guest on a full machine, hands it over to one with "
                 "almost no devices, lets it reboot, and does it again."};
    app.add_option("--guest", options.guest,
                   "raw disk image to use instead of ours; it is copied first")
        ->check(CLI::ExistingFile);
    app.add_option("--booted", options.booted,
                   "when the guest counts as booted: shell (a root shell on "
                   "hvc0), serial:REGEX or after:SECONDS")
        ->capture_default_str();
    app.add_option("--kernel", kernel, "kernel of our image")
        ->check(CLI::IsMember({"standard", "cloud"}))
        ->capture_default_str();
    app.add_option("--vcpus", options.vcpus, "vCPUs")
        ->check(CLI::Range(1U, vm::maxVcpus))
        ->capture_default_str();
    app.add_option("--memory", options.memory, "guest memory, as 512M or 5G")
        ->transform(CLI::AsSizeValue(false))
        ->default_str("1G");
    app.add_option("--firmware", options.firmware,
                   "firmware image of the boot machine, as for QEMU's -bios; "
                   "default: SeaBIOS")
        ->check(CLI::ExistingFile);
    app.add_option("--accel", options.accelerator, "accelerator")
        ->check(CLI::IsMember({"auto", "tcg", "kvm"}))
        ->capture_default_str();
    app.add_option("--build", options.build, "build directory")
        ->capture_default_str();
    app.add_option("--json", options.json, "write the result to this file");
    app.add_option("--isolated", options.isolated,
                   "boot in an isolated boot host, of the boot images in this "
                   "directory; with a small guest")
        ->check(CLI::ExistingDirectory);
    app.add_flag("--keep", options.keep,
                 "leave the guest running until Ctrl-C");
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        int status = app.exit(error);
        out.exitStatus = status == 0 ? 0 : 2;
        return out;
    }
    if (options.guest.empty())
    {
        options.guest =
            options.build / "images" / ("debian12-" + kernel + ".raw");
    }
    return out;
}

} // namespace airlock::demo
