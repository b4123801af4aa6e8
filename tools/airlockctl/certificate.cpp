#include "tools/airlockctl/certificate.hpp"

#include "common/file.hpp"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

namespace airlock::ctl
{

namespace
{

constexpr std::size_t maxPem = 256U << 10;

std::string subjectPart(X509* certificate, int nid)
{
    char text[256] = {};
    int length = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate),
                                           nid, text, sizeof(text));
    return length < 0 ? std::string() : std::string(text);
}

} // namespace

Certificate readCertificate(const std::filesystem::path& file)
{
    Bytes bytes = readFile(file, maxPem);
    std::unique_ptr<BIO, decltype(&BIO_free_all)> input(
        BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())),
        &BIO_free_all);
    std::unique_ptr<X509, decltype(&X509_free)> certificate(
        input ? PEM_read_bio_X509(input.get(), nullptr, nullptr, nullptr)
              : nullptr,
        &X509_free);
    if (!certificate)
    {
        throw Error(file.string() + " holds no certificate");
    }
    int days = 0;
    int seconds = 0;
    if (ASN1_TIME_diff(&days, &seconds, nullptr,
                       X509_get0_notAfter(certificate.get())) != 1)
    {
        throw Error(file.string() + " has no valid end of its time");
    }
    return {subjectPart(certificate.get(), NID_commonName),
            subjectPart(certificate.get(), NID_organizationalUnitName), days};
}

} // namespace airlock::ctl
