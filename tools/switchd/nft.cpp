#include "tools/switchd/nft.hpp"

#include "common/mac_address.hpp"
#include "common/secret.hpp"

#include <nftables/libnftables.h>

namespace airlock::sw
{

namespace
{

constexpr std::size_t maxMessage = 500;
constexpr JsonLimits answerLimits{64U << 20, 64};

} // namespace

void Nft::Free::operator()(nft_ctx* context) const
{
    nft_ctx_free(context);
}

Nft::Nft() : context_(nft_ctx_new(NFT_CTX_DEFAULT))
{
    if (!context_ || nft_ctx_buffer_output(context_.get()) != 0 ||
        nft_ctx_buffer_error(context_.get()) != 0)
    {
        throw Error("libnftables cannot be set up");
    }
    nft_ctx_output_set_flags(context_.get(), NFT_CTX_OUTPUT_JSON |
                                                 NFT_CTX_OUTPUT_HANDLE |
                                                 NFT_CTX_OUTPUT_NUMERIC_ALL);
}

std::string Nft::execute(const Json& commands, const std::string& doing)
{
    std::string text = dumpJson({{"nftables", commands}});
    int code = nft_run_cmd_from_buffer(context_.get(), text.c_str());
    wipe({reinterpret_cast<std::uint8_t*>(text.data()), text.size()});
    std::string out = nft_ctx_get_output_buffer(context_.get());
    std::string errors = nft_ctx_get_error_buffer(context_.get());
    if (code != 0)
    {
        throw Error(doing + ": nftables: " +
                    plainText(withoutAddresses(errors), maxMessage));
    }
    return out;
}

void Nft::run(const Json& commands, const std::string& doing)
{
    execute(commands, doing);
}

Json Nft::list(const Json& command, const std::string& doing)
{
    Json answer = parseJson(execute(Json::array({command}), doing), "nftables",
                            answerLimits);
    return JsonField(answer, "nftables").at("nftables").json();
}

std::string withoutAddresses(const std::string& text)
{
    constexpr std::size_t length = 17;
    std::string out;
    for (std::size_t i = 0; i < text.size();)
    {
        if (MacAddress::parse(std::string_view(text).substr(i, length)))
        {
            out += "(address)";
            i += length;
        }
        else
        {
            out += text[i++];
        }
    }
    return out;
}

} // namespace airlock::sw
