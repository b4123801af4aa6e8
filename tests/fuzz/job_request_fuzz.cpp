#include "bootsrv/job.hpp"

#include <cstdlib>

/** A job request, and with '#' in front a job's status, of any content is
 * refused or read; what was read is written back the same. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    using namespace airlock;
    using namespace airlock::boot;
    std::string_view text(reinterpret_cast<const char*>(data), size);
    try
    {
        if (!text.empty() && text[0] == '#')
        {
            Json document = parseJson(text.substr(1), "status", {1U << 20, 16});
            Json once = JobStatus::parse(JsonField(document, "s")).toJson();
            if (JobStatus::parse(JsonField(once, "s")).toJson() != once)
            {
                std::abort();
            }
            return 0;
        }
        Json once = JobRequest::parse(text).toJson();
        if (JobRequest::parse(dumpJson(once)).toJson() != once)
        {
            std::abort();
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
