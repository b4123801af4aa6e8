#include "tools/switchd/methods.hpp"

#include "common/sha256.hpp"

namespace airlock::sw
{

namespace
{

using control::CallError;
using control::Peer;

constexpr std::size_t maxName = 64;

/** What the agent refuses, in the words of the control socket. */
template <typename Action>
auto answering(Action&& action)
{
    try
    {
        return action();
    }
    catch (const NoSuchPort& error)
    {
        throw CallError(control::errors::notFound, error.what());
    }
}

std::string portIn(const JsonField& parameters)
{
    return parameters.at("port").string(maxName);
}

/** The root that was passed, or a new one. */
Secret rootIn(const JsonField& parameters)
{
    auto field = parameters.find("root");
    return field ? Secret::key(*field) : Secret::random();
}

/** The state of the port; with the root, for the boot host, if it was made
 * here. */
Json enrolled(SwitchAgent& agent, const std::string& port,
              const JsonField& parameters, const Secret* root)
{
    Json out = {{"port", agent.status(port)}};
    if (root && !parameters.find("root"))
    {
        out["root"] = toHex(root->view());
    }
    return out;
}

Json enroll(SwitchAgent& agent, const JsonField& parameters)
{
    parameters.onlyKeys({"port", "host", "method", "root", "key", "address"});
    WipedJson wiped(parameters.json());
    Json& wanted = wiped.json;
    wanted.erase("port");
    std::optional<Secret> root;
    if (parameters.at("method").string(maxName) != toString(Method::quote))
    {
        root = rootIn(parameters);
        wanted["root"] = toHex(root->view());
    }
    std::string port = portIn(parameters);
    agent.enroll(port, parseEnrolment(wanted, "enroll"));
    return enrolled(agent, port, parameters, root ? &*root : nullptr);
}

Json rotate(SwitchAgent& agent, const JsonField& parameters)
{
    parameters.onlyKeys({"port", "root"});
    Secret root = rootIn(parameters);
    std::string port = portIn(parameters);
    agent.rotate(port, root);
    return enrolled(agent, port, parameters, &root);
}

} // namespace

void addMethods(control::Server& server, SwitchAgent& agent,
                const std::string& version)
{
    auto add = [&](const char* name, auto action) {
        server.handle(
            name,
            [&agent, action](const JsonField& parameters, const Peer&) -> Json {
                return answering([&] { return action(agent, parameters); });
            });
    };
    add("status", [version](SwitchAgent& all, const JsonField& parameters) {
        parameters.onlyKeys({});
        Json out = all.status();
        out["version"] = version;
        return out;
    });
    add("port", [](SwitchAgent& all, const JsonField& parameters) -> Json {
        parameters.onlyKeys({"port"});
        return {{"port", all.status(portIn(parameters))}};
    });
    add("cut", [](SwitchAgent& all, const JsonField& parameters) -> Json {
        parameters.onlyKeys({"port"});
        std::string port = portIn(parameters);
        all.cut(port, "an operator asked for it");
        return {{"port", all.status(port)}};
    });
    add("enroll", enroll);
    add("rotate", rotate);
}

} // namespace airlock::sw
