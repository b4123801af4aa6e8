#include "bootsrv/config.hpp"

#include "common/error.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <limits>
#include <set>
#include <string_view>

namespace airlock::boot
{

namespace
{

/** Takes values out of a table and remembers which keys were asked for. */
class Section
{
  public:
    using Keys = std::set<std::string>;

    /** The keys that are asked for are put into `keys`. */
    Section(const toml::table& table, std::string file, std::string name,
            Keys& keys)
        : table_(table), file_(std::move(file)), name_(std::move(name)),
          keys_(keys)
    {}

    void take(const char* key, std::string& out)
    {
        if (const toml::node* node = find(key))
        {
            out = value<std::string>(*node, key, "a text");
        }
    }

    void take(const char* key, std::filesystem::path& out)
    {
        std::string text = out.string();
        take(key, text);
        out = text;
    }

    template <std::unsigned_integral T>
    void take(const char* key, T& out, T least = 0)
    {
        const toml::node* node = find(key);
        if (node == nullptr)
        {
            return;
        }
        auto number = value<std::int64_t>(*node, key, "a number");
        if (number < 0 || static_cast<std::uint64_t>(number) < least ||
            static_cast<std::uint64_t>(number) > std::numeric_limits<T>::max())
        {
            fail(*node, key, "is too small or too large");
        }
        out = static_cast<T>(number);
    }

    void take(const char* key, std::chrono::seconds& out)
    {
        auto seconds = static_cast<std::uint32_t>(out.count());
        take(key, seconds, std::uint32_t{1});
        out = std::chrono::seconds(seconds);
    }

    void unknownKeys(std::vector<std::string>& warnings) const
    {
        for (const auto& [key, node] : table_)
        {
            if (!known_.contains(std::string(key.str())))
            {
                warnings.push_back(fmt::format("{}:{}: unknown key '{}{}'",
                                               file_, node.source().begin.line,
                                               name_.empty() ? "" : name_ + ".",
                                               key.str()));
            }
        }
    }

    /** An empty one when it is not there. */
    Section sub(const char* key)
    {
        static const toml::table empty;
        const toml::node* node = find(key);
        if (node != nullptr && !node->is_table())
        {
            fail(*node, key, "has to be a section");
        }
        return {node == nullptr ? empty : *node->as_table(), file_, key, keys_};
    }

  private:
    const toml::node* find(const char* key)
    {
        known_.insert(key);
        keys_.insert(name_.empty() ? key : name_ + "." + key);
        return table_.get(key);
    }

    template <typename T>
    T value(const toml::node& node, const char* key, const char* want) const
    {
        auto out = node.value_exact<T>();
        if (!out)
        {
            fail(node, key, std::string("has to be ") + want);
        }
        return *out;
    }

    [[noreturn]] void fail(const toml::node& node, const char* key,
                           const std::string& why) const
    {
        throw Error(fmt::format("{}:{}: {}{} {}", file_,
                                node.source().begin.line,
                                name_.empty() ? "" : name_ + ".", key, why));
    }

    const toml::table& table_;
    std::string file_;
    std::string name_;
    Keys& keys_;
    std::set<std::string> known_;
};

toml::table parseFile(const std::filesystem::path& path)
{
    try
    {
        return toml::parse_file(path.string());
    }
    catch (const toml::parse_error& error)
    {
        throw Error(fmt::format("{}:{}: {}", path.string(),
                                error.source().begin.line,
                                error.description()));
    }
}

void takeBoot(Section section, Config& config,
              std::vector<std::string>& warnings)
{
    section.take("qemu", config.boot.qemu);
    section.take("firmware-directory", config.boot.firmwareDirectory);
    section.take("firmware", config.boot.firmware);
    section.take("bootrun", config.boot.bootrun);
    section.take("user", config.boot.user);
    section.take("parallel", config.parallel, 1U);
    section.unknownKeys(warnings);
}

void takeQuota(Section section, Quota& quota,
               std::vector<std::string>& warnings)
{
    section.take("jobs", quota.jobs, std::uint64_t{1});
    section.take("jobs-per-host", quota.jobsPerHost, std::uint64_t{1});
    section.take("job-bytes", quota.jobBytes);
    section.take("total-bytes", quota.totalBytes);
    section.take("boot-seconds", quota.boot);
    section.take("keep-seconds", quota.keep);
    section.take("tries", quota.tries, 1U);
    section.unknownKeys(warnings);
}

Config readTable(const toml::table& table, const std::string& file,
                 std::vector<std::string>& warnings, Section::Keys& keys)
{
    Config config;
    Section root(table, file, "", keys);
    root.take("listen", config.address);
    root.take("port", config.port);
    root.take("state-directory", config.stateDirectory);

    Section tls = root.sub("tls");
    tls.take("certificate", config.tls.certificate);
    tls.take("key", config.tls.key);
    tls.take("authorities", config.tls.authorities);
    tls.unknownKeys(warnings);

    config.boot.qemu = "/usr/lib/airlock/boot/qemu-system-x86_64";
    config.boot.bootrun = "/usr/libexec/airlock/airlock-bootrun";
    takeBoot(root.sub("boot"), config, warnings);
    takeQuota(root.sub("quota"), config.quota, warnings);

    Section limits = root.sub("limits");
    limits.take("connections", config.limits.connections, std::size_t{1});
    limits.take("connections-per-address", config.limits.connectionsEach,
                std::size_t{1});
    limits.unknownKeys(warnings);

    Section metrics = root.sub("metrics");
    metrics.take("listen", config.metrics);
    metrics.unknownKeys(warnings);

    root.unknownKeys(warnings);
    config.boot.hide = config.stateDirectory;
    return config;
}

} // namespace

Config readConfig(const std::filesystem::path& path,
                  std::vector<std::string>& warnings)
{
    Section::Keys ignored;
    return readTable(parseFile(path), path.string(), warnings, ignored);
}

std::vector<std::string> configKeys()
{
    std::vector<std::string> ignored;
    Section::Keys keys;
    readTable(toml::table(), "", ignored, keys);
    // Sections are no keys.
    std::erase_if(keys, [&](const std::string& key) {
        auto inside = keys.lower_bound(key + ".");
        return inside != keys.end() && inside->starts_with(key + ".");
    });
    return {keys.begin(), keys.end()};
}

} // namespace airlock::boot
