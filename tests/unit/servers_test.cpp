/** Which boot server gets a job: over real servers on loopback. */
#include "bootsrv/job_store.hpp"
#include "bootsrv/service.hpp"
#include "common/file.hpp"
#include "common/http_server.hpp"
#include "hostagent/agent/servers.hpp"
#include "test_pki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <thread>

namespace airlock::host
{
namespace
{

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

/** A boot server that takes jobs and boots none. */
class FakeServer
{
  public:
    FakeServer(test::TestPki& pki, bool qemu, std::uint64_t room)
        : store_(directory_.path() / "state", quota(room)),
          http_(std::make_unique<http::Server>(
              http::Server::Options{"127.0.0.1", 0}, pki.server(),
              boot::makeHandler(store_, facts(qemu))))
    {}

    http::Endpoint endpoint() const { return {"127.0.0.1", http_->port()}; }

    void fill()
    {
        boot::JobRequest request;
        request.job = handover::JobTicket::issue(
            "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1);
        request.guest.name = "other";
        request.guest.uuid = request.job.vm;
        request.policy = "after:1";
        request.timeout = std::chrono::seconds(60);
        request.tenant = "green";
        request.disks = {{1U << 20, false}};
        store_.create("other", request);
    }

    /** Its port is closed. */
    void stop() { http_.reset(); }

  private:
    static boot::Quota quota(std::uint64_t room)
    {
        boot::Quota out;
        out.jobs = room;
        return out;
    }

    static boot::ServiceFacts facts(bool qemu)
    {
        return {1, "1", qemu ? std::optional(boot::QemuFacts()) : std::nullopt};
    }

    TempDirectory directory_;
    boot::JobStore store_;
    std::unique_ptr<http::Server> http_;
};

class Servers : public ::testing::Test
{
  protected:
    FakeServer& add(const std::string& name, unsigned weight, bool qemu = true,
                    std::uint64_t room = 9)
    {
        fakes.push_back(std::make_unique<FakeServer>(pki, qemu, room));
        settings.push_back({name, fakes.back()->endpoint(), weight});
        return *fakes.back();
    }

    ServerPool& pool()
    {
        if (!made)
        {
            made.emplace(settings, pki.client());
            made->onChange(
                [this](const std::string& name, const ServerState& state) {
                    changes.push_back(name + (state.up ? " up" : " down"));
                });
        }
        return *made;
    }

    /** Which one would get a job. */
    std::string choose(const std::set<std::string>& avoid = {},
                       const DomainSettings& domain = {})
    {
        std::string name = pool().choose(domain, avoid);
        pool().ended(name);
        return name;
    }

    test::TestPki pki;
    std::vector<std::unique_ptr<FakeServer>> fakes;
    std::vector<ServerSettings> settings;
    std::optional<ServerPool> made;
    std::vector<std::string> changes;
};

TEST_F(Servers, JobsAreSharedByWeight)
{
    add("one", 1);
    add("two", 2);
    std::map<std::string, int> got;
    for (int i = 0; i < 9; i++)
    {
        got[pool().choose({}, {})]++;
    }
    EXPECT_EQ(got["one"], 3);
    EXPECT_EQ(got["two"], 6);
    pool().ended("one");
    EXPECT_EQ(choose(), "one");
    EXPECT_THAT(changes, IsEmpty());
}

TEST_F(Servers, ManyAtOnceGetTheirShares)
{
    add("one", 1);
    add("two", 1);
    pool();
    std::mutex mutex;
    std::map<std::string, int> got;
    {
        std::vector<std::jthread> storm;
        for (int i = 0; i < 8; i++)
        {
            storm.emplace_back([&] {
                std::string name = pool().choose({}, {});
                std::lock_guard lock(mutex);
                got[name]++;
            });
        }
    }
    EXPECT_EQ(got["one"], 4);
    EXPECT_EQ(got["two"], 4);
}

TEST_F(Servers, AServerThatCannotBeHadHasNoJobMore)
{
    add("broken", 10, false);
    add("good", 1);
    EXPECT_EQ(choose(), "good");
    fakes.erase(fakes.begin());
    EXPECT_EQ(pool().choose({}, {}), "good");
    EXPECT_EQ(pool().choose({}, {}), "good");
}

TEST_F(Servers, TheOneThatFailedComesLast)
{
    add("one", 1);
    add("two", 9);
    EXPECT_EQ(choose(), "two");
    EXPECT_EQ(choose({"two"}), "one");
    EXPECT_EQ(choose({"one", "two"}), "two");
}

TEST_F(Servers, DomainsMayWishOtherwise)
{
    add("one", 1);
    add("two", 9);
    add("three", 0);
    DomainSettings domain;
    domain.servers = {{"two", 0}, {"three", 5}};
    EXPECT_EQ(choose({}, domain), "three");
    EXPECT_EQ(choose({"three"}, domain), "one");
}

TEST_F(Servers, ThoseThatAreCutOffFullOrBrokenAreLeftOut)
{
    FakeServer& first = add("cut-off", 100);
    add("full", 50, true, 1).fill();
    add("broken", 20, false);
    FakeServer& last = add("good", 1);
    EXPECT_EQ(choose(), "cut-off");
    first.stop();
    EXPECT_EQ(choose(), "good");
    EXPECT_THAT(changes, ElementsAre("cut-off down", "broken down"));
    // Even if the other one failed before.
    EXPECT_EQ(choose({"good"}), "good");
    last.stop();
    EXPECT_THAT(
        [&] { choose(); },
        ThrowsMessage<Error>(AllOf(HasSubstr("; cut-off: cannot connect"),
                                   HasSubstr("; full is full"),
                                   HasSubstr("; broken: its QEMU does not run"),
                                   HasSubstr("; good: cannot connect"))));
}

TEST_F(Servers, ChangesAreToldOnce)
{
    add("one", 1);
    add("two", 1, false);
    pool().look();
    pool().look();
    EXPECT_THAT(changes, ElementsAre("two down"));
    fakes[0]->stop();
    pool().look();
    pool().look();
    EXPECT_THAT(changes, ElementsAre("two down", "one down"));
    EXPECT_FALSE(pool().states().at("one").up);
    EXPECT_THAT(pool().states().at("one").why, HasSubstr("cannot connect"));
}

} // namespace
} // namespace airlock::host
