#include "bootsrv/config.hpp"

#include "common/toml_table.hpp"

namespace airlock::boot
{

namespace
{

void readBoot(TomlTable table, Config& config)
{
    table.path("qemu", config.boot.qemu);
    table.path("firmware-directory", config.boot.firmwareDirectory);
    table.text("firmware", config.boot.firmware);
    table.path("bootrun", config.boot.bootrun);
    table.text("user", config.boot.user);
    table.number("parallel", config.parallel, 1);
    table.done();
}

void readQuota(TomlTable table, Quota& quota)
{
    table.number("jobs", quota.jobs, 1);
    table.number("jobs-per-host", quota.jobsPerHost, 1);
    table.number("job-bytes", quota.jobBytes, 0);
    table.number("total-bytes", quota.totalBytes, 0);
    table.time("boot-seconds", quota.boot);
    table.time("keep-seconds", quota.keep);
    table.number("tries", quota.tries, 1);
    table.done();
}

void readTables(TomlTable& top, Config& config)
{
    top.text("listen", config.address);
    top.number("port", config.port, 0);
    top.path("state-directory", config.stateDirectory);

    TomlTable tls = top.sub("tls");
    tls.path("certificate", config.tls.certificate);
    tls.path("key", config.tls.key);
    tls.path("authorities", config.tls.authorities);
    tls.done();

    config.boot.qemu = "/usr/lib/airlock/boot/qemu-system-x86_64";
    config.boot.bootrun = "/usr/libexec/airlock/airlock-bootrun";
    readBoot(top.sub("boot"), config);
    readQuota(top.sub("quota"), config.quota);

    TomlTable limits = top.sub("limits");
    limits.number("connections", config.limits.connections, 1);
    limits.number("connections-per-address", config.limits.connectionsEach, 1);
    limits.done();

    TomlTable metrics = top.sub("metrics");
    metrics.text("listen", config.metrics);
    metrics.done();

    config.boot.hide = config.stateDirectory;
}

} // namespace

Config readConfig(const std::filesystem::path& file)
{
    Config config;
    readToml(file, [&](TomlTable& top) { readTables(top, config); });
    return config;
}

std::vector<std::string> configKeys()
{
    return tomlKeys([](TomlTable& top) {
        Config ignored;
        readTables(top, ignored);
    });
}

} // namespace airlock::boot
