#include "bootsrv/machine/kept.hpp"

#include "common/error.hpp"
#include "common/sha256.hpp"

#include <arpa/inet.h>

#include <array>
#include <charconv>

namespace airlock::machine
{

namespace
{

constexpr std::uint64_t version = 1;
constexpr JsonLimits limits = {KeptStore::maxText, 16};
constexpr std::size_t maxPem = 8U << 10;
constexpr std::size_t maxName = 255;
constexpr std::uint64_t maxEpoch = 1ULL << 62;
constexpr std::array<const char*, 3> methods = {"mac", "mac96", "quote"};

ProofMethod methodFrom(const JsonField& field)
{
    std::string word = field.string(16);
    for (std::size_t i = 0; i < methods.size(); i++)
    {
        if (word == methods[i])
        {
            return static_cast<ProofMethod>(i);
        }
    }
    field.refuse("is none of mac, mac96, quote");
}

bool isAddress(const std::string& text)
{
    std::array<std::uint8_t, 16> bytes{};
    return ::inet_pton(AF_INET, text.c_str(), bytes.data()) == 1 ||
           ::inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1;
}

Site::Network parseNetwork(const JsonField& field)
{
    field.onlyKeys({"address", "gateway"});
    Site::Network out;
    JsonField address = field.at("address");
    out.address = address.string(maxName);
    std::size_t slash = out.address.find('/');
    unsigned prefix = 0;
    const char* end = out.address.data() + out.address.size();
    if (slash == std::string::npos ||
        !isAddress(out.address.substr(0, slash)) ||
        std::from_chars(out.address.data() + slash + 1, end, prefix).ptr !=
            end ||
        prefix > 128 || prefix == 0)
    {
        address.refuse("is no IP address with the length of its prefix");
    }
    if (auto gateway = field.find("gateway"))
    {
        out.gateway = gateway->string(maxName);
        if (!isAddress(out.gateway))
        {
            gateway->refuse("is no IP address");
        }
    }
    return out;
}

Site::Switch parseSwitch(const JsonField& field)
{
    field.onlyKeys({"host", "port", "method", "ethertype", "window",
                    "lease-seconds", "address"});
    Site::Switch out;
    out.host = field.at("host").string(maxName);
    out.method = methodFrom(field.at("method"));
    if (auto port = field.find("port"))
    {
        out.port = static_cast<std::uint16_t>(port->u64(65535));
    }
    if (auto type = field.find("ethertype"))
    {
        out.etherType = static_cast<std::uint16_t>(type->u64(65535));
    }
    if (auto window = field.find("window"))
    {
        out.window = window->u64(1024);
    }
    if (auto lease = field.find("lease-seconds"))
    {
        out.leaseSeconds = lease->u64(3600);
    }
    if (auto address = field.find("address"))
    {
        out.address = MacAddress::parse(address->string(17));
        if (!out.address || out.address->isGroup() || out.address->isZero())
        {
            address->refuse("is no address of a host");
        }
    }
    if (out.window == 0 || out.leaseSeconds == 0)
    {
        field.refuse("window and lease-seconds are at least 1");
    }
    return out;
}

Json networkJson(const Site::Network& network)
{
    Json out = {{"address", network.address}};
    if (!network.gateway.empty())
    {
        out["gateway"] = network.gateway;
    }
    return out;
}

Json switchJson(const Site::Switch& it)
{
    Json out = {{"host", it.host},
                {"port", it.port},
                {"method", methods.at(static_cast<std::size_t>(it.method))},
                {"ethertype", it.etherType},
                {"window", it.window},
                {"lease-seconds", it.leaseSeconds}};
    if (it.address)
    {
        out["address"] = it.address->text();
    }
    return out;
}

Json quotaJson(const boot::Quota& quota)
{
    return {{"boot-seconds", quota.boot.count()},
            {"keep-seconds", quota.keep.count()},
            {"tries", quota.tries}};
}

boot::Quota parseQuota(const JsonField& field)
{
    constexpr std::uint64_t year = 366ULL * 86400;
    field.onlyKeys({"boot-seconds", "keep-seconds", "tries"});
    boot::Quota out;
    if (auto boot = field.find("boot-seconds"))
    {
        out.boot = std::chrono::seconds(boot->u64(year));
    }
    if (auto keep = field.find("keep-seconds"))
    {
        out.keep = std::chrono::seconds(keep->u64(year));
    }
    if (auto tries = field.find("tries"))
    {
        out.tries = static_cast<unsigned>(tries->u64(1000));
    }
    return out;
}

Json jobJson(const KeptJob& job)
{
    return {{"owner", job.owner},
            {"request", job.request.toJson()},
            {"status", job.status.toJson()},
            {"since", job.since},
            {"key", toHex(job.key->view())},
            {"ran", job.ran}};
}

KeptJob parseJob(const JsonField& field)
{
    field.onlyKeys({"owner", "request", "status", "since", "key", "ran"});
    return {field.at("owner").string(maxName),
            boot::JobRequest::parse(dumpJson(field.at("request").json())),
            boot::JobStatus::parse(field.at("status")),
            field.at("since").i64(),
            std::make_shared<Secret>(Secret::key(field.at("key"))),
            field.at("ran").boolean()};
}

Json epochsJson(const Epochs& epochs)
{
    return {{"opened", epochs.opened}, {"next", epochs.next}};
}

Epochs parseEpochs(const JsonField& field)
{
    field.onlyKeys({"opened", "next"});
    return {field.at("opened").u64(maxEpoch), field.at("next").u64(maxEpoch)};
}

} // namespace

Json Site::toJson() const
{
    Json out = {{"tls",
                 {{"certificate", tls.certificate},
                  {"key", tls.key},
                  {"authorities", tls.authorities}}},
                {"listen", listen},
                {"port", port},
                {"quota", quotaJson(quota)}};
    if (network)
    {
        out["network"] = networkJson(*network);
    }
    if (switchTo)
    {
        out["switch"] = switchJson(*switchTo);
    }
    return out;
}

Site Site::parse(const JsonField& field)
{
    field.onlyKeys({"tls", "listen", "port", "quota", "network", "switch"});
    Site out;
    JsonField tls = field.at("tls");
    tls.onlyKeys({"certificate", "key", "authorities"});
    out.tls = {tls.at("certificate").string(maxPem),
               tls.at("key").string(maxPem),
               tls.at("authorities").string(maxPem)};
    if (auto listen = field.find("listen"))
    {
        out.listen = listen->string(maxName);
    }
    if (auto port = field.find("port"))
    {
        out.port = static_cast<std::uint16_t>(port->u64(65535));
    }
    if (auto quota = field.find("quota"))
    {
        out.quota = parseQuota(*quota);
    }
    if (auto network = field.find("network"))
    {
        out.network = parseNetwork(*network);
    }
    if (auto it = field.find("switch"))
    {
        out.switchTo = parseSwitch(*it);
    }
    return out;
}

Site Site::parse(std::string_view text, std::string_view where)
{
    const WipedJson wiped(parseJson(text, where, limits));
    return parse(JsonField(wiped.json, where));
}

bool Epochs::atEnd(std::uint64_t window, std::uint64_t rounds) const
{
    return next > opened + window + std::min(rounds, window);
}

std::uint64_t Epochs::take(std::uint64_t window, std::uint64_t rounds)
{
    const bool again = next <= opened || atEnd(window, rounds);
    const std::uint64_t out = again ? opened + 1 : next;
    next = out + 1;
    return out;
}

std::string KeptRecord::toText() const
{
    Json goneList = Json::array();
    for (const GoneJob& it : gone)
    {
        goneList.push_back({{"id", it.id},
                            {"owner", it.owner},
                            {"print", it.print},
                            {"since", it.since}});
    }
    WipedJson out(Json{{"version", version},
                       {"site", site.toJson()},
                       {"epochs", epochsJson(epochs)},
                       {"gone", goneList}});
    if (!root.empty())
    {
        out.json["root"] = root;
    }
    if (newEpochs)
    {
        out.json["new-epochs"] = epochsJson(*newEpochs);
    }
    if (job)
    {
        out.json["job"] = jobJson(*job);
    }
    return dumpJson(out.json);
}

KeptRecord KeptRecord::parse(std::string_view text)
{
    const WipedJson wiped(parseJson(text, "kept", limits));
    JsonField root(wiped.json, "kept");
    root.onlyKeys(
        {"version", "site", "epochs", "gone", "job", "root", "new-epochs"});
    if (root.at("version").u64() != version)
    {
        root.at("version").refuse("is not 1, the one that is known here");
    }
    KeptRecord out;
    out.site = Site::parse(root.at("site"));
    out.epochs = parseEpochs(root.at("epochs"));
    if (auto name = root.find("root"))
    {
        out.root = name->string(maxName);
    }
    if (auto epochs = root.find("new-epochs"))
    {
        out.newEpochs = parseEpochs(*epochs);
    }
    std::size_t count = root.at("gone").arraySize(maxGone);
    for (std::size_t i = 0; i < count; i++)
    {
        JsonField it = root.at("gone").element(i);
        out.gone.push_back({it.at("id").string(64), it.at("owner").string(64),
                            it.at("print").string(64), it.at("since").i64()});
    }
    if (auto job = root.find("job"))
    {
        out.job = parseJob(*job);
    }
    return out;
}

Kept::Kept(Blocks& blocks, const Secret& key,
           std::shared_ptr<SequenceAnchor> anchor)
    : store_(blocks, key, std::move(anchor)),
      record_(KeptRecord::parse(asText(store_.load().view())))
{}

KeptRecord Kept::get() const
{
    std::lock_guard lock(mutex_);
    return record_;
}

void Kept::change(const std::function<void(KeptRecord&)>& action,
                  KeptStore::Write how)
{
    std::lock_guard lock(mutex_);
    KeptRecord changed = record_;
    action(changed);
    store_.save(WipedText(changed.toText()).text, how);
    record_ = std::move(changed);
}

void installKept(Blocks& blocks, const Secret& key,
                 std::shared_ptr<SequenceAnchor> anchor, const Site& site)
{
    KeptRecord record;
    record.site = site;
    KeptStore store(blocks, key, std::move(anchor));
    store.install(WipedText(record.toText()).text);
}

} // namespace airlock::machine
