#include "tools/switchd/enrolment.hpp"

#include "common/file.hpp"
#include "common/sha256.hpp"
#include "trust/machine.hpp"

namespace airlock::sw
{

namespace
{

constexpr std::size_t maxFile = 64U << 10;
constexpr std::size_t maxKey = 16U << 10;
constexpr std::size_t maxHost = 64;
constexpr mode_t privateFile = 0600;
/** Counters have room to grow: what is read in can be counted up. */
constexpr std::uint64_t maxEpoch = 1ULL << 62;

} // namespace

std::string_view toString(Method method)
{
    switch (method)
    {
    case Method::mac:
        return "mac";
    case Method::mac96:
        return "mac96";
    case Method::quote:
        return "quote";
    }
    return "mac";
}

std::optional<Method> methodFrom(std::string_view word)
{
    for (Method method : {Method::mac, Method::mac96, Method::quote})
    {
        if (word == toString(method))
        {
            return method;
        }
    }
    return std::nullopt;
}

Enrolment parseEnrolment(const Json& json, std::string_view where)
{
    JsonField top(json, where);
    top.onlyKeys({"host", "method", "root", "epoch", "key", "address", "seen"});
    Enrolment out;
    out.host = top.at("host").string(maxHost);
    auto method = methodFrom(top.at("method").string(16));
    if (!method)
    {
        top.at("method").refuse("is none of mac, mac96, quote");
    }
    out.method = *method;
    if (auto epoch = top.find("epoch"))
    {
        out.epoch = epoch->u64(maxEpoch);
    }
    if (auto root = top.find("root"))
    {
        out.root = std::make_shared<Secret>(Secret::key(*root));
    }
    if (auto key = top.find("key"))
    {
        out.key = key->string(maxKey);
    }
    if (auto address = top.find("address"))
    {
        out.address = MacAddress::parse(address->string(17));
        if (!out.address || out.address->isGroup() || out.address->isZero())
        {
            address->refuse("is no address of a host");
        }
    }
    if (auto seen = top.find("seen"))
    {
        out.seen = trust::clockFrom(*seen);
    }
    if (out.method == Method::quote ? out.key.empty() : !out.root)
    {
        top.refuse(out.method == Method::quote ? "method quote needs a key"
                                               : "the method needs a root");
    }
    return out;
}

EnrolmentStore::EnrolmentStore(std::filesystem::path directory)
    : directory_(std::move(directory))
{
    std::filesystem::create_directories(directory_);
    std::filesystem::permissions(directory_, std::filesystem::perms::owner_all);
}

std::filesystem::path EnrolmentStore::fileOf(const std::string& port) const
{
    return directory_ / (port + ".json");
}

std::optional<Enrolment> EnrolmentStore::load(const std::string& port) const
{
    std::filesystem::path file = fileOf(port);
    if (!std::filesystem::exists(file))
    {
        return std::nullopt;
    }
    Bytes bytes = readFile(file, maxFile);
    WipedText text({bytes.begin(), bytes.end()});
    wipe(bytes);
    WipedJson read(parseJson(text.text, file.string(), {maxFile, 8}));
    return parseEnrolment(read.json, file.string());
}

void EnrolmentStore::save(const std::string& port,
                          const Enrolment& enrolment) const
{
    WipedJson wiped(Json{{"host", enrolment.host},
                         {"method", std::string(toString(enrolment.method))},
                         {"epoch", enrolment.epoch}});
    Json& json = wiped.json;
    if (enrolment.root)
    {
        json["root"] = toHex(enrolment.root->view());
    }
    if (!enrolment.key.empty())
    {
        json["key"] = enrolment.key;
    }
    if (enrolment.address)
    {
        json["address"] = enrolment.address->text();
    }
    if (enrolment.seen)
    {
        json["seen"] = trust::clockJson(*enrolment.seen);
    }
    WipedText text(dumpJson(json) + "\n");
    writeFileAtomic(fileOf(port), text.text, privateFile);
}

} // namespace airlock::sw
