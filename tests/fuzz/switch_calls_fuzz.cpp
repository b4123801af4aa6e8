#include "common/error.hpp"
#include "tools/switchd/enrolment.hpp"
#include "tools/switchd/service.hpp"

#include <string_view>

using namespace airlock;

/** "METHOD PATH\nBODY" of any content is answered or refused; so is the body
 * as an enrolment. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    static const http::Handler handler = makeHandler(
        sw::HostCalls{
            [](const std::string&) { return Json::object(); },
            [](const std::string&) {
                return Json{{"port", "p"}, {"state", "cut-off"}, {"epoch", 1}};
            },
            [](const std::string&, const Secret&) { return Json::object(); }},
        "fuzz");
    std::string_view text(reinterpret_cast<const char*>(data), size);
    std::size_t line = text.find('\n');
    std::string_view head = text.substr(0, line);
    std::size_t space = head.find(' ');
    if (line == std::string_view::npos || space == std::string_view::npos)
    {
        return 0;
    }
    ByteView body = ByteView(data, size).subspan(line + 1);
    try
    {
        sw::parseEnrolment(parseJson(text.substr(line + 1), "fuzz"), "fuzz");
    }
    catch (const Refused&)
    {}
    try
    {
        http::Request request;
        request.method = std::string(head.substr(0, space));
        request.path = http::splitPath(head.substr(space + 1));
        request.peer = {"host", "airlock-bootd"};
        auto exchange = handler(request);
        exchange->receive(body.first(body.size() / 2));
        exchange->receive(body.subspan(body.size() / 2));
        exchange->finish();
    }
    catch (const http::Problem&)
    {}
    catch (const Refused&)
    {}
    return 0;
}
