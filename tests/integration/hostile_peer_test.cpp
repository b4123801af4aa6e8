#include "boot_jobs.hpp"
#include "bootd_rig.hpp"
#include "common/error.hpp"
#include "common/tls.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <fstream>
#include <set>
#include <thread>

/** A peer with a valid certificate, or without one, that means no good. In
 * each test a well-behaved host agent has a job on its way, which has to end
 * well. */
namespace airlock::test
{
namespace
{

using boot::JobState;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t diskBytes = 64 * mib;
constexpr Milliseconds answerTime = std::chrono::seconds(30);

UniqueFd connectFrom(const char* source, std::uint16_t port)
{
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in from = {};
    from.sin_family = AF_INET;
    ::inet_pton(AF_INET, source, &from.sin_addr);
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    ::inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&from), sizeof(from)) !=
            0 ||
        ::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0)
    {
        throwErrno("cannot connect");
    }
    return fd;
}

/** A TLS connection on which anything can be said. */
class RawPeer
{
  public:
    RawPeer(BootdRig& rig, std::shared_ptr<const tls::Context> context,
            const char* source = "127.0.0.2")
        : context_(std::move(context)),
          stream_(tls::Stream::connect(
              *context_, connectFrom(source, rig.endpoint().port), "127.0.0.1",
              tls::bootRole, Deadline(answerTime)))
    {}

    void send(std::string_view text)
    {
        stream_.send(asBytes(text), Deadline(answerTime));
    }

    /** All that the server says until it closes, or has said so much. */
    std::string answer(std::size_t max = 64U << 10)
    {
        std::string out;
        Bytes piece(4096);
        Deadline deadline(answerTime);
        while (out.size() < max)
        {
            std::size_t got = stream_.receive(piece, deadline);
            if (got == 0)
            {
                break;
            }
            out.append(piece.begin(),
                       piece.begin() + static_cast<std::ptrdiff_t>(got));
        }
        return out;
    }

  private:
    std::shared_ptr<const tls::Context> context_;
    tls::Stream stream_;
};

class HostilePeer : public testing::Test
{
  protected:
    HostilePeer()
        : rig("[quota]\njob-bytes = 1073741824\njobs-per-host = 8\n"),
          good(rig.client("good"))
    {
        request = smallRequest(diskBytes);
        id = good.createJob(request).id;
        disk = createMemfd("disk", diskBytes);
        writeAllAt(disk.get(), Bytes(mib, 0x5a), 0);
        memoryBefore = residentBytes();
    }

    /** The good job goes on as if nothing had happened. */
    ~HostilePeer() override
    {
        handover::FileImage image(disk.get(), diskBytes);
        good.uploadDisk(id, 0, image);
        good.seal(id);
        boot::JobStatus status =
            waitFinished(good, id, std::chrono::minutes(3));
        EXPECT_EQ(status.state, JobState::done)
            << dumpJson(status.toJson()) << rig.log();
        good.fetchBundle(id, [this](const auto& manifest) {
            manifest.requireJob(request.job);
        });
        EXPECT_LT(residentBytes(), memoryBefore + 48 * mib);
        EXPECT_EQ(rig.stop(), 0);
    }

    std::uint64_t residentBytes()
    {
        std::ifstream file(fmt::format("/proc/{}/statm", rig.process().pid()));
        std::uint64_t size = 0;
        std::uint64_t resident = 0;
        file >> size >> resident;
        return resident * 4096;
    }

    std::uint64_t storedBytes()
    {
        std::uint64_t out = 0;
        for (const auto& entry :
             std::filesystem::recursive_directory_iterator(rig.state()))
        {
            struct stat info = {};
            if (::lstat(entry.path().c_str(), &info) == 0)
            {
                out += static_cast<std::uint64_t>(info.st_blocks) * 512;
            }
        }
        return out;
    }

    /** What the server answers to these bytes of a peer with a certificate. */
    std::string answerTo(std::string_view text)
    {
        RawPeer peer(rig, rig.pki().client("evil"));
        peer.send(text);
        return peer.answer();
    }

    /** "409 nonce-used" */
    std::string refusal(const std::function<void()>& call)
    {
        try
        {
            call();
        }
        catch (const http::Problem& problem)
        {
            return fmt::format("{} {}", problem.status(), problem.code());
        }
        catch (const Error& error)
        {
            return error.what();
        }
        return "accepted";
    }

    BootdRig rig;
    boot::Client good;
    boot::JobRequest request;
    std::string id;
    UniqueFd disk;
    std::uint64_t memoryBefore = 0;
};

TEST_F(HostilePeer, withoutTheRightCertificateNobodyGetsIn)
{
    auto call = [&](const tls::Identity& identity) {
        return refusal([&] {
            boot::Client(rig.endpoint(),
                         std::make_shared<tls::Context>(
                             identity, tls::Context::Side::client))
                .health();
        });
    };
    auto& pki = rig.pki();
    auto other = pki::makeAuthority("test-authority");
    EXPECT_THAT(call(pki.identity("evil", tls::hostRole, other)),
                HasSubstr("does not accept us"));
    // Valid when it is read, expired when it is shown.
    pki::Validity brief = {std::chrono::hours(-1), std::chrono::seconds(1)};
    auto expiring = std::make_shared<tls::Context>(
        pki.identity("evil", tls::hostRole, pki.authority(), brief),
        tls::Context::Side::client);
    std::this_thread::sleep_for(std::chrono::seconds(2));
    EXPECT_THAT(
        refusal([&] { boot::Client(rig.endpoint(), expiring).health(); }),
        HasSubstr("expired"));
    EXPECT_EQ(call(pki.identity("boot2", tls::bootRole)), "403 wrong-role");
    EXPECT_EQ(call(pki.identity("key1", "airlock-keyd")), "403 wrong-role");

    UniqueFd plain = connectFrom("127.0.0.2", rig.endpoint().port);
    std::string_view text = "GET /v1/health HTTP/1.1\r\nHost: a\r\n\r\n";
    ASSERT_EQ(::send(plain.get(), text.data(), text.size(), 0),
              static_cast<ssize_t>(text.size()));
    Bytes said = readToEnd(plain.get(), 4096, "answer");
    EXPECT_EQ(std::string(said.begin(), said.end()).find("HTTP"),
              std::string::npos);
}

TEST_F(HostilePeer, anothersJobDoesNotExist)
{
    boot::Client evil = rig.client("evil");
    EXPECT_EQ(refusal([&] { evil.status(id); }), "404 not-found");
    EXPECT_EQ(refusal([&] { evil.seal(id); }), "404 not-found");
    EXPECT_EQ(refusal([&] { evil.fetchState(id); }), "404 not-found");
    handover::FileImage image(disk.get(), diskBytes);
    EXPECT_EQ(refusal([&] { evil.uploadDisk(id, 0, image); }), "404 not-found");
    evil.remove(id); // as if it were gone
    EXPECT_EQ(refusal([&] { evil.createJob(request); }), "409 nonce-used");
    EXPECT_TRUE(evil.jobs().empty());
    EXPECT_EQ(good.status(id).state, JobState::receiving);
}

TEST_F(HostilePeer, replayedAndOutOfOrderCallsChangeNothing)
{
    boot::Client evil = rig.client("evil");
    boot::JobRequest mine = smallRequest(diskBytes);
    std::string job = evil.createJob(mine).id;
    EXPECT_EQ(evil.createJob(mine).id, job);
    EXPECT_EQ(refusal([&] { evil.seal(job); }), "409 incomplete");
    EXPECT_EQ(refusal([&] { evil.fetchState(job); }), "409 not-done");
    EXPECT_EQ(refusal([&] { evil.fetchManifest(job); }), "409 not-done");
    boot::JobRequest changed = mine;
    changed.job.generation++;
    EXPECT_EQ(refusal([&] { evil.createJob(changed); }), "409 nonce-used");
    evil.remove(job);
    evil.remove(job);
    EXPECT_EQ(refusal([&] { evil.createJob(mine); }), "410 gone");
    handover::FileImage image(disk.get(), diskBytes);
    EXPECT_EQ(refusal([&] { evil.uploadDisk(job, 0, image); }),
              "409 not-receiving");
    EXPECT_EQ(refusal([&] { evil.seal(job); }), "410 gone");
}

TEST_F(HostilePeer, quotasHoldForOnePeer)
{
    boot::Client evil = rig.client("evil");
    for (int i = 0; i < 8; i++)
    {
        evil.createJob(smallRequest(diskBytes));
    }
    EXPECT_EQ(refusal([&] { evil.createJob(smallRequest(diskBytes)); }),
              "429 too-many-jobs");
    EXPECT_EQ(refusal([&] { evil.createJob(smallRequest(10240 * mib)); }),
              "413 too-large");
    EXPECT_NO_THROW(rig.client("another").createJob(smallRequest(diskBytes)));
}

TEST_F(HostilePeer, tenGibibytesForADiskOfOne)
{
    boot::Client evil = rig.client("evil");
    boot::JobRequest mine = smallRequest(512 * mib);
    std::string job = evil.createJob(mine).id;
    std::string path = fmt::format("/v1/jobs/{}/disks/0", job);
    EXPECT_THAT(answerTo(fmt::format("PUT /v1/jobs/{}/disks/0 HTTP/1.1\r\n"
                                     "Host: a\r\nContent-Length: {}\r\n\r\n",
                                     job, 10240 * mib)),
                StartsWith("HTTP/1.1 413"));
    std::uint64_t sent = 0;
    auto endless = [&](ByteView head, ByteView record) {
        return refusal([&] {
            http::Client client(rig.endpoint(), rig.pki().client("evil"));
            client.upload("PUT", path, [&](const http::BodySink& sink) {
                sink(head);
                for (sent = 0; sent < 10240 * mib; sent += record.size())
                {
                    sink(record);
                }
            });
        });
    };
    ByteWriter head;
    head.text("ALIMAGE1");
    head.be64(512 * mib);
    EXPECT_EQ(endless(head.data(), Bytes(mib, 0)), "400 bad-request");
    EXPECT_LT(sent, 1024 * mib);
    // A stream with the size of another disk.
    ByteWriter wrong;
    wrong.text("ALIMAGE1");
    wrong.be64(10240 * mib);
    EXPECT_EQ(endless(wrong.data(), Bytes(mib, 1)), "400 bad-request");
    EXPECT_LT(storedBytes(), 64 * mib);
    EXPECT_FALSE(evil.status(job).uploaded[0]);
}

TEST_F(HostilePeer, pathsLeadNowhere)
{
    for (const char* path :
         {"/../../etc/passwd", "/v1/jobs/../../../etc/passwd",
          "/v1/jobs/%2e%2e/x", "/v1/jobs//x", "/v1/jobs/.", "/v1/jobs/..",
          "/v1/jobs/a/disks/../../b", "http://other/v1/health", "*",
          "/v1/jobs/\x01", "/v1/health?x=y", "/v1/health#x"})
    {
        EXPECT_THAT(answerTo(fmt::format("GET {} HTTP/1.1\r\nHost: a\r\n"
                                         "Connection: close\r\n\r\n",
                                         path)),
                    StartsWith("HTTP/1.1 400"))
            << path;
    }
    for (const std::string& path : std::vector<std::string>{
             "/v1/jobs/lock", "/v1/jobs/" + id + "/run",
             "/v1/jobs/" + id + "/job.json", "/v1/jobs/" + id + "/disks/00",
             "/v1/jobs/" + id + "/disks/18446744073709551616", "/v2/jobs",
             "/v1/jobs/" + id + "/disks/0/x", "/v1"})
    {
        EXPECT_THAT(answerTo(fmt::format("GET {} HTTP/1.1\r\nHost: a\r\n"
                                         "Connection: close\r\n\r\n",
                                         path)),
                    StartsWith("HTTP/1.1 404"))
            << path;
    }
}

TEST_F(HostilePeer, jsonBombsAreRefused)
{
    auto post = [&](const std::string& body) {
        return answerTo(fmt::format("POST /v1/jobs HTTP/1.1\r\nHost: a\r\n"
                                    "Connection: close\r\n"
                                    "Content-Length: {}\r\n\r\n{}",
                                    body.size(), body))
            .substr(0, 12);
    };
    EXPECT_EQ(post(std::string(100000, '[')), "HTTP/1.1 400");
    std::string deep;
    for (int i = 0; i < 50000; i++)
    {
        deep += "{\"a\":";
    }
    EXPECT_EQ(post(deep), "HTTP/1.1 400");
    EXPECT_EQ(post("{\"job\":" + std::string(1000000, '1') + "}"),
              "HTTP/1.1 400");
    EXPECT_EQ(post(std::string(2 * mib, ' ')), "HTTP/1.1 413");
    EXPECT_EQ(post("\xff\xfe{}"), "HTTP/1.1 400");
    EXPECT_EQ(post(""), "HTTP/1.1 400");
    std::string wide = "[0";
    while (wide.size() < mib - 10)
    {
        wide += ",0";
    }
    EXPECT_EQ(post(wide + "]"), "HTTP/1.1 400");
}

TEST_F(HostilePeer, whatIsNoHttpIsRefused)
{
    std::string put = "PUT /v1/jobs/" + id + "/disks/0 HTTP/1.1\r\nHost: a\r\n";
    for (const std::string& text : std::vector<std::string>{
             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
             "GET /v1/health HTTP/1.0\r\n\r\n",
             std::string("\0\1\2\3\r\n\r\n", 8), "GET /v1/health\r\n\r\n",
             "POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
             "POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
             "Content-Length: 6\r\n\r\n{}{}{}",
             "POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
             "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
             "GET /v1/health HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\nX\r\n\r\n",
             "GET /v1/health HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
             "abc"})
    {
        EXPECT_THAT(answerTo(text), StartsWith("HTTP/1.1 400")) << text;
    }
    EXPECT_THAT(
        answerTo("GET /v1/health HTTP/1.1\r\nA: " + std::string(100000, 'x')),
        StartsWith("HTTP/1.1 431"));
    EXPECT_THAT(answerTo("BREW /v1/health HTTP/1.1\r\nHost: a\r\n"
                         "Connection: close\r\n\r\n"),
                StartsWith("HTTP/1.1 405"));
    EXPECT_EQ(good.status(id).uploaded[0], false);
}

TEST_F(HostilePeer, slowPeersAreSentAway)
{
    // As many as one address may have, none of which says a whole header.
    std::vector<std::unique_ptr<RawPeer>> peers;
    auto context = rig.pki().client("evil");
    for (int i = 0; i < 16; i++)
    {
        peers.push_back(std::make_unique<RawPeer>(rig, context));
        peers.back()->send("GET /v1/health HT");
    }
    EXPECT_THROW(RawPeer(rig, context).answer(), Error);
    // Another one works meanwhile, at its usual pace.
    Clock::time_point start = Clock::now();
    while (Clock::now() - start < std::chrono::seconds(12))
    {
        Clock::time_point begin = Clock::now();
        EXPECT_EQ(good.status(id).state, JobState::receiving);
        EXPECT_LT(Clock::now() - begin, std::chrono::seconds(2));
        for (auto& peer : peers)
        {
            try
            {
                peer->send("T");
            }
            catch (const Error&)
            {
                // That one was ended.
            }
        }
        std::this_thread::sleep_for(Milliseconds(500));
    }
    for (auto& peer : peers)
    {
        try
        {
            EXPECT_EQ(peer->answer(), "");
        }
        catch (const Error&)
        {
            // Cut while we wrote.
        }
    }
    EXPECT_EQ(rig.client("evil").health().mode, "clean");
}

TEST_F(HostilePeer, aSlowBodyIsEndedAndLeavesNothing)
{
    boot::Client evil = rig.client("evil");
    std::string job = evil.createJob(smallRequest(diskBytes)).id;
    RawPeer peer(rig, rig.pki().client("evil"));
    peer.send(fmt::format("PUT /v1/jobs/{}/disks/0 HTTP/1.1\r\nHost: a\r\n"
                          "Content-Length: 100000\r\n\r\nALIMAGE1",
                          job));
    Clock::time_point start = Clock::now();
    try
    {
        for (int i = 0; i < 60; i++)
        {
            peer.send("x");
            std::this_thread::sleep_for(Milliseconds(500));
        }
    }
    catch (const Error&)
    {}
    EXPECT_LT(Clock::now() - start, std::chrono::seconds(20));
    EXPECT_FALSE(evil.status(job).uploaded[0]);
    EXPECT_TRUE(
        std::filesystem::is_empty(rig.state() / "jobs" / job / "disks"));
}

TEST_F(HostilePeer, halfOpenAndAbortedConnectionsAreForgotten)
{
    auto context = rig.pki().client("evil");
    for (int i = 0; i < 200; i++)
    {
        UniqueFd fd = connectFrom("127.0.0.2", rig.endpoint().port);
        if (i % 2 == 0)
        {
            // Cut instead of closed.
            linger hard = {1, 0};
            ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
        }
        EXPECT_EQ(::send(fd.get(), "\x16\x03\x01", 3, MSG_NOSIGNAL), 3);
    }
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_EQ(rig.client("evil").health().mode, "clean");
}

} // namespace
} // namespace airlock::test
