#include "boot_request.hpp"
#include "bootsrv/machine/machine_jobs.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "cut_blocks.hpp"
#include "devmodel/handover/bundle.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

namespace airlock::machine
{
namespace
{

using boot::JobState;
using boot::ResultFile;
using test::CutAnchor;
using test::CutBlocks;
using test::imageStream;
using test::Platter;
using test::Power;
using test::PowerCut;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t keptBytes = mib;
constexpr std::uint64_t stagingBytes = 256 * mib;
constexpr std::uint64_t diskBytes = mib;
constexpr std::uint64_t memoryBytes = 16 * mib;

/** With a disk that is read only. */
boot::JobRequest twoDisks()
{
    boot::JobRequest out = test::smallRequest(diskBytes);
    out.guest.memory = memoryBytes;
    out.disks.push_back({diskBytes, true});
    return out;
}

Bytes readAll(http::BodySource& source)
{
    Bytes out(source.bytes());
    for (std::size_t at = 0; at < out.size();)
    {
        at += source.read(std::span(out).subspan(
            at, std::min<std::size_t>(1000, out.size() - at)));
    }
    return out;
}

/** What dirty mode leaves of a boot, without one. */
class PretendedBoot
{
  public:
    explicit PretendedBoot(Blocks& staging)
        : key_(readHeader(staging).value()), request_(readRequest(staging)),
          layout_(Layout::of(request_, staging.bytes())),
          in_(staging, layout_.in, key_, inArea),
          out_(staging, layout_.out, key_, outArea)
    {}

    const boot::JobRequest& request() const { return request_; }
    CryptArea& out() { return out_; }
    const Layout& layout() const { return layout_; }

    Bytes disk(std::size_t number)
    {
        const Slot& slot = layout_.disks.at(number);
        return readRecord(in_, slot, findRecord(in_, slot).value());
    }

    void leaveAll(const std::string& code = "done")
    {
        writeRecord(out_, layout_.state, Bytes(5000, 0x51));
        writeRecord(out_, layout_.memory, imageStream(memoryBytes, 7, 0x52));
        writeRecord(out_, *layout_.deltas.at(0),
                    imageStream(diskBytes, 3, 0x53));
        out_.sync();
        leaveReport(RunReport{code, "because", {{"boot", 2.5}}}.toText());
    }

    void leaveReport(const std::string& text)
    {
        writeRecord(out_, layout_.result, asBytes(text));
        out_.sync();
    }

  private:
    boot::JobRequest readRequest(Blocks& staging) const
    {
        CryptArea first(staging, Layout::firstArea(), key_, inArea);
        Slot slot = Layout::requestSlot();
        Bytes text = readRecord(first, slot, findRecord(first, slot).value());
        return boot::JobRequest::parse(asText(text));
    }

    Secret key_;
    boot::JobRequest request_;
    Layout layout_;
    CryptArea in_;
    CryptArea out_;
};

std::string codeOf(const std::function<void()>& action)
{
    try
    {
        action();
        return "";
    }
    catch (const http::Problem& problem)
    {
        return std::to_string(problem.status()) + " " + problem.code();
    }
    catch (const Refused& refused)
    {
        return "refused " + refused.where();
    }
}

/** A machine across its lives. */
class MachineJobsTest : public testing::Test
{
  protected:
    MachineJobsTest()
    {
        Power power;
        CutBlocks kept(keptPlatter, keptBytes, power);
        Site site;
        site.tls = {"certificate", "key", "authorities"};
        installKept(kept, key, std::make_shared<CutAnchor>(number, power),
                    site);
    }

    /** A machine under power. */
    struct Life
    {
        Life(MachineJobsTest& test, Power& itsPower)
            : power(itsPower), keptBlocks(test.keptPlatter, keptBytes, power),
              staging(test.stagingPlatter, stagingBytes, power),
              kept(keptBlocks, test.key,
                   std::make_shared<CutAnchor>(test.number, power)),
              jobs(kept, staging)
        {}

        void upload(const std::string& id, std::size_t disk)
        {
            auto upload = jobs.upload("host1", id, disk);
            upload->feed(imageStream(diskBytes, disk, 0x41));
            upload->finish();
        }

        void uploadAll(const std::string& id)
        {
            upload(id, 0);
            upload(id, 1);
        }

        Power& power;
        CutBlocks keptBlocks;
        CutBlocks staging;
        Kept kept;
        MachineJobs jobs;
    };

    /** The machine goes off in order; the next life begins. */
    void powerCycle()
    {
        if (life)
        {
            life->keptBlocks.lose(1);
            life->staging.lose(1);
        }
        life.reset();
        life.emplace(*this, endless);
    }

    MachineJobs& jobs() { return life->jobs; }

    /** To a job that dirty mode has finished. */
    std::string finish(const std::string& code = "done")
    {
        powerCycle();
        std::string id = jobs().create("host1", request).status.id;
        life->uploadAll(id);
        jobs().seal("host1", id);
        EXPECT_TRUE(jobs().goDirty());
        PretendedBoot(life->staging).leaveAll(code);
        powerCycle();
        return id;
    }

    void expectResult(const std::string& id)
    {
        auto get = [&](ResultFile file, std::size_t disk = 0) {
            return readAll(*jobs().result("host1", id, file, disk));
        };
        Bytes text = get(ResultFile::manifest);
        handover::Manifest manifest = handover::Manifest::parse(asText(text));
        EXPECT_NO_THROW(manifest.requireJob(request.job));
        EXPECT_EQ(manifest.deviceStateSha256, sha256(Bytes(5000, 0x51)));
        EXPECT_EQ(get(ResultFile::state), Bytes(5000, 0x51));
        EXPECT_EQ(get(ResultFile::memory), imageStream(memoryBytes, 7, 0x52));
        handover::MemoryDigest digest = handover::MemoryDigest::decode(
            get(ResultFile::digests), memoryBytes);
        EXPECT_EQ(digest.root(), manifest.memoryRoot);
        Bytes delta = get(ResultFile::disk);
        EXPECT_EQ(delta, imageStream(diskBytes, 3, 0x53));
        boot::JobStatus status = jobs().status("host1", id);
        EXPECT_EQ(status.result->disks.at(0)->sha256, sha256(delta));
        EXPECT_FALSE(status.result->disks.at(1));
    }

    Platter keptPlatter;
    Platter stagingPlatter;
    std::uint64_t number = 0;
    Secret key = Secret::random();
    Power endless;
    std::optional<Life> life;
    boot::JobRequest request = twoDisks();
};

TEST_F(MachineJobsTest, AJobFromBeginningToEnd)
{
    powerCycle();
    auto made = jobs().create("host1", request);
    EXPECT_TRUE(made.fresh);
    std::string id = made.status.id;
    EXPECT_FALSE(jobs().create("host1", request).fresh);
    EXPECT_EQ(jobs().health().jobs, 1U);
    EXPECT_EQ(codeOf([&] { jobs().seal("host1", id); }), "409 incomplete");
    life->uploadAll(id);
    EXPECT_FALSE(jobs().waitSealed(Milliseconds(0)));
    jobs().collect(); // there is nothing to be collected
    EXPECT_EQ(jobs().seal("host1", id).state, JobState::queued);
    jobs().collect();
    EXPECT_TRUE(jobs().waitSealed(Milliseconds(0)));
    EXPECT_FALSE(hasHeader(life->staging));
    EXPECT_TRUE(jobs().goDirty());
    EXPECT_FALSE(jobs().goDirty());

    PretendedBoot dirty(life->staging);
    EXPECT_EQ(dirty.request().toJson(), request.toJson());
    EXPECT_EQ(dirty.disk(0), imageStream(diskBytes, 0, 0x41));
    EXPECT_EQ(dirty.disk(1), imageStream(diskBytes, 1, 0x41));
    dirty.leaveAll();
    powerCycle();

    EXPECT_FALSE(hasHeader(life->staging));
    EXPECT_TRUE(jobs().needsCollecting());
    EXPECT_EQ(jobs().status("host1", id).state, JobState::booting);
    EXPECT_EQ(codeOf([&] { jobs().result("host1", id, ResultFile::state); }),
              "409 not-done");
    jobs().collect();
    boot::JobStatus status = jobs().status("host1", id);
    EXPECT_EQ(status.state, JobState::done);
    EXPECT_EQ(status.seconds.at("boot"), 2.5);
    EXPECT_EQ(status.tries, 1U);
    expectResult(id);
    EXPECT_EQ(codeOf([&] { jobs().result("host1", id, ResultFile::disk, 1); }),
              "404 not-found");

    EXPECT_EQ(jobs().remove("host1", id).state, JobState::gone);
    EXPECT_EQ(jobs().status("host1", id).state, JobState::gone);
    EXPECT_THAT(jobs().list("host1"), IsEmpty());
    EXPECT_EQ(codeOf([&] { jobs().create("host1", request); }), "410 gone");
    EXPECT_EQ(codeOf([&] { jobs().create("host2", request); }),
              "409 nonce-used");
    EXPECT_EQ(jobs().health().jobs, 0U);
    powerCycle();
    EXPECT_EQ(jobs().status("host1", id).state, JobState::gone);
}

TEST_F(MachineJobsTest, OneJobAtATimeAndOnlyItsOwners)
{
    powerCycle();
    std::string id = jobs().create("host1", request).status.id;
    boot::JobRequest other = twoDisks();
    EXPECT_EQ(codeOf([&] { jobs().create("host1", other); }),
              "429 too-many-jobs");
    EXPECT_EQ(codeOf([&] { jobs().create("host2", request); }),
              "409 nonce-used");
    EXPECT_EQ(codeOf([&] { jobs().status("host2", id); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { jobs().remove("host2", id); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { jobs().upload("host1", id, 2); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { jobs().upload("host2", id, 0); }), "404 not-found");
    EXPECT_THAT(jobs().list("host2"), IsEmpty());
}

TEST_F(MachineJobsTest, WhatDoesNotFitIsRefused)
{
    powerCycle();
    boot::JobRequest large = twoDisks();
    large.disks[0].bytes = 200 * mib;
    EXPECT_EQ(codeOf([&] { jobs().create("host1", large); }), "413 too-large");
    boot::JobRequest slow = twoDisks();
    slow.timeout = std::chrono::seconds(86400);
    EXPECT_EQ(codeOf([&] { jobs().create("host1", slow); }),
              "refused job request: timeout-seconds");
    EXPECT_NO_THROW(jobs().create("host1", request));
}

TEST_F(MachineJobsTest, AnUploadThatBreaksOffLeavesNothing)
{
    powerCycle();
    std::string id = jobs().create("host1", request).status.id;
    life->uploadAll(id);
    {
        auto broken = jobs().upload("host1", id, 0);
        Bytes whole = imageStream(diskBytes, 9, 1);
        broken->feed(ByteView(whole).first(100));
    }
    EXPECT_FALSE(jobs().status("host1", id).uploaded.at(0));
    EXPECT_EQ(codeOf([&] { jobs().seal("host1", id); }), "409 incomplete");
    auto first = jobs().upload("host1", id, 0);
    auto second = jobs().upload("host1", id, 0);
    EXPECT_EQ(codeOf([&] { first->feed(Bytes(1)); }), "409 superseded");
    EXPECT_THROW(second->feed(Bytes(64, 0xFF)), Refused);
    auto third = jobs().upload("host1", id, 0);
    jobs().remove("host1", id);
    EXPECT_EQ(codeOf([&] { third->feed(Bytes(1)); }), "409 superseded");
}

TEST_F(MachineJobsTest, AFailedJobSaysWhyAndGivesWay)
{
    for (const char* code : {"timeout", "boot-failed", "no-space", "internal"})
    {
        request = twoDisks();
        std::string id = finish(code);
        jobs().collect();
        boot::JobStatus status = jobs().status("host1", id);
        EXPECT_EQ(status.state, JobState::failed);
        EXPECT_EQ(status.error->code, code);
        EXPECT_EQ(status.error->message, "because");
        EXPECT_EQ(jobs().health().jobs, 0U);
        powerCycle();
        EXPECT_EQ(jobs().status("host1", id).state, JobState::failed);
    }
}

TEST_F(MachineJobsTest, ResultsAreHostileInput)
{
    auto failure = [this](const std::function<void(PretendedBoot&)>& leave) {
        request = twoDisks();
        life.reset();
        powerCycle();
        if (auto old = life->kept.get().job)
        {
            jobs().remove("host1", old->status.id);
        }
        std::string id = jobs().create("host1", request).status.id;
        life->uploadAll(id);
        jobs().seal("host1", id);
        jobs().goDirty();
        PretendedBoot dirty(life->staging);
        dirty.leaveAll();
        leave(dirty);
        powerCycle();
        jobs().collect();
        boot::JobStatus status = jobs().status("host1", id);
        EXPECT_EQ(status.state, JobState::failed);
        return status.error.value_or(boot::JobError()).message;
    };
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    clearRecord(it.out(), it.layout().result);
                }),
                HasSubstr("did not come to its end"));
    EXPECT_THAT(failure([](PretendedBoot& it) { it.leaveReport("{"); }),
                HasSubstr("report"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    it.leaveReport(
                        R"({"code":"great","message":"","seconds":{}})");
                }),
                HasSubstr("none that is known"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    clearRecord(it.out(), it.layout().state);
                }),
                HasSubstr("device state: is not there"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    writeRecord(it.out(), it.layout().memory,
                                imageStream(2 * memoryBytes, 0, 1));
                }),
                HasSubstr("image"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    Bytes cut = imageStream(memoryBytes, 7, 1);
                    cut.resize(cut.size() - 1);
                    writeRecord(it.out(), it.layout().memory, cut);
                }),
                HasSubstr("image"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    writeRecord(it.out(), *it.layout().deltas[0],
                                imageStream(2 * diskBytes, 0, 1));
                }),
                HasSubstr("image"));
    // A record of another slot, or one that is longer than its place.
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    Slot other = it.layout().memory;
                    other.number = 1;
                    writeRecord(it.out(), other, Bytes(1));
                }),
                HasSubstr("memory image: is not there"));
    EXPECT_THAT(failure([](PretendedBoot& it) {
                    RecordHead head{it.layout().state.room + 1, {}};
                    it.out().write(head.write(it.layout().state),
                                   it.layout().state.offset);
                }),
                HasSubstr("device state: is not there"));
    // What was changed afterwards, without the key.
    EXPECT_THAT(failure([this](PretendedBoot& it) {
                    life->staging.write(Bytes(512, 1),
                                        it.layout().out.offset +
                                            it.layout().state.offset + 1024);
                }),
                HasSubstr("is damaged"));
}

TEST_F(MachineJobsTest, AResultIsTheSameAfterARestart)
{
    std::string id = finish();
    jobs().collect();
    expectResult(id);
    Bytes manifest = readAll(*jobs().result("host1", id, ResultFile::manifest));
    powerCycle();
    EXPECT_TRUE(jobs().needsCollecting());
    EXPECT_EQ(jobs().status("host1", id).state, JobState::booting);
    jobs().collect();
    EXPECT_EQ(readAll(*jobs().result("host1", id, ResultFile::manifest)),
              manifest);
    expectResult(id);
    // One that is not the same is not given out.
    powerCycle();
    KeptJob job = life->kept.get().job.value();
    Layout layout = Layout::of(job.request, stagingBytes);
    CryptArea out(life->staging, layout.out, *job.key, outArea);
    writeRecord(out, *layout.deltas.at(0), imageStream(diskBytes, 4, 0x54));
    jobs().collect();
    EXPECT_EQ(jobs().status("host1", id).error.value().code, "lost");
}

TEST_F(MachineJobsTest, AMachineThatDoesNotGoDirtyGivesUp)
{
    powerCycle();
    std::string id = jobs().create("host1", request).status.id;
    life->uploadAll(id);
    jobs().seal("host1", id);
    for (unsigned i = 0; i < 3; i++)
    {
        EXPECT_EQ(jobs().status("host1", id).state, JobState::queued);
        jobs().goDirty();
        clearHeader(life->staging); // as if it was never written
        powerCycle();
    }
    boot::JobStatus status = jobs().status("host1", id);
    EXPECT_EQ(status.state, JobState::failed);
    EXPECT_EQ(status.error->code, "gave-up");
}

TEST_F(MachineJobsTest, WhatIsKeptTooLongGoes)
{
    std::string id = finish();
    jobs().collect();
    jobs().expire();
    EXPECT_EQ(jobs().status("host1", id).state, JobState::done);
    life->kept.change([](KeptRecord& record) { record.job->since -= 90000; });
    jobs().expire();
    EXPECT_EQ(jobs().status("host1", id).state, JobState::gone);
}

TEST_F(MachineJobsTest, OfAJobThatIsGoneNothingCanBeRead)
{
    std::string id = finish();
    jobs().collect();
    const std::string jobKey = toHex(life->kept.get().job->key->view());
    /** What can be read of the kept record without one of its slots. */
    auto keptWithout = [this](std::uint64_t slot) {
        Platter one = keptPlatter;
        one.sectors[slot / Platter::sector] = {};
        Power power;
        CutBlocks blocks(one, keptBytes, power);
        std::uint64_t none = 0;
        const Secret text =
            KeptStore(blocks, key, std::make_shared<CutAnchor>(none, power))
                .load();
        return std::string(asText(text.view()));
    };
    constexpr std::uint64_t slots[] = {0, keptBytes / 2};
    EXPECT_THAT((std::vector{keptWithout(slots[0]), keptWithout(slots[1])}),
                testing::Contains(HasSubstr(jobKey)));
    Platter secret = stagingPlatter;
    jobs().remove("host1", id);
    powerCycle();
    // Its key is not in what is kept any more, whichever slot is read.
    for (std::uint64_t slot : slots)
    {
        EXPECT_EQ(keptWithout(slot).find(jobKey), std::string::npos);
    }
    // And the sentinels were never there in clear.
    Bytes sentinel(64, 0x52);
    EXPECT_GT(secret.sectors.size(), 8U); // a page takes 8
    for (const auto& [sector, bytes] : secret.sectors)
    {
        EXPECT_EQ(std::search(bytes.begin(), bytes.end(), sentinel.begin(),
                              sentinel.end()),
                  bytes.end())
            << sector;
    }
}

/** What a host agent knows to be so, because it was told. */
struct Told
{
    bool created = false;
    bool uploaded = false;
    bool sealed = false;
    bool removed = false;
};

/** The whole way of a job, beginning where it is; the power may go at any
 * time. */
class MachineJobsPowerTest : public MachineJobsTest
{
  protected:
    void upload(MachineJobs& it)
    {
        for (std::size_t disk : {0U, 1U})
        {
            auto upload = it.upload("host1", id, disk);
            upload->feed(imageStream(diskBytes, disk, 0x41));
            upload->finish();
        }
        told.uploaded = true;
    }

    /** What remains to be done, as a host agent and PID 1 would do it. Returns
     * whether dirty mode was asked for. */
    bool goOn(MachineJobs& it)
    {
        if (!told.created)
        {
            it.create("host1", request);
            told.created = true;
        }
        if (it.status("host1", id).state == JobState::receiving)
        {
            upload(it);
            it.seal("host1", id);
            told.sealed = true;
        }
        if (it.goDirty())
        {
            return true;
        }
        if (it.needsCollecting())
        {
            it.collect();
        }
        boot::JobStatus status = it.status("host1", id);
        if (status.state == JobState::done)
        {
            end = "done";
        }
        if (status.error)
        {
            end = status.error->code;
        }
        it.remove("host1", id);
        told.removed = true;
        return false;
    }

    /** The state that a life finds has to go with what was told before. */
    void expectNothingLost(MachineJobs& it, Blocks& staging)
    {
        EXPECT_FALSE(hasHeader(staging));
        if (!told.created)
        {
            return;
        }
        boot::JobStatus status = it.status("host1", id);
        SCOPED_TRACE(toText(status.state));
        EXPECT_FALSE(told.removed && status.state != JobState::gone);
        EXPECT_FALSE(told.sealed && status.state == JobState::receiving);
        if (told.uploaded && status.state == JobState::receiving)
        {
            EXPECT_TRUE(status.uploaded.at(0) && status.uploaded.at(1));
        }
        EXPECT_FALSE(end == "done" && status.state != JobState::booting &&
                     status.state != JobState::gone)
            << "a result that was there is not";
    }

    /** One life, to its end or until the power goes. */
    template <typename Action>
    void live(const std::vector<CutBlocks*>& disks, std::uint64_t seed,
              const Action& action)
    {
        try
        {
            action();
            seed = 1; // off in order
        }
        catch (const PowerCut&)
        {
            powerWasCut = true;
            goesDirty = false; // the next life is clean
        }
        for (CutBlocks* disk : disks)
        {
            disk->lose(seed);
        }
    }

    void liveDirty(Power& power, std::uint64_t seed)
    {
        goesDirty = false;
        CutBlocks staging(stagingPlatter, stagingBytes, power);
        live({&staging}, seed, [&] {
            PretendedBoot dirty(staging);
            for (std::size_t disk : {0U, 1U})
            {
                EXPECT_EQ(dirty.disk(disk), imageStream(diskBytes, disk, 0x41));
            }
            dirty.leaveAll();
        });
    }

    void liveClean(Power& power, std::uint64_t seed)
    {
        CutBlocks keptBlocks(keptPlatter, keptBytes, power);
        CutBlocks staging(stagingPlatter, stagingBytes, power);
        live({&keptBlocks, &staging}, seed, [&] {
            Kept kept(keptBlocks, key,
                      std::make_shared<CutAnchor>(number, power));
            MachineJobs it(kept, staging);
            expectNothingLost(it, staging);
            goesDirty = goOn(it);
        });
    }

    /** Life after life until the job is gone; the power goes once, after so
     * many operations. How it ended: "done", or why it failed. */
    std::string wholeWay(std::uint64_t cut, std::uint64_t seed)
    {
        told = {};
        end = "gone";
        powerWasCut = false;
        goesDirty = false;
        id = boot::jobId(request.job.nonce);
        Power first(cut);
        for (unsigned lives = 0; !told.removed; lives++)
        {
            if (lives > 12)
            {
                return "never ends";
            }
            Power& power = powerWasCut ? endless : first;
            goesDirty ? liveDirty(power, seed) : liveClean(power, seed);
        }
        operations = first.used();
        return end;
    }

    std::string id;
    Told told;
    std::string end;
    bool powerWasCut = false;
    bool goesDirty = false;
    std::uint64_t operations = 0;
};

TEST_F(MachineJobsPowerTest, APowerCutAtAnyWriteLosesNothingThatWasTold)
{
    ASSERT_EQ(wholeWay(~0ULL, 1), "done");
    std::uint64_t all = operations;
    ASSERT_GT(all, 30U);
    Platter kept = keptPlatter;
    std::uint64_t anchor = number;
    std::map<std::string, unsigned> ends;
    for (std::uint64_t cut = 0; cut < all; cut++)
    {
        for (std::uint64_t seed : {0U, 1U, 2U, 3U})
        {
            SCOPED_TRACE(testing::Message()
                         << "cut at " << cut << ", seed " << seed);
            keptPlatter = kept;
            number = anchor;
            stagingPlatter = {};
            request = twoDisks();
            ends[wholeWay(cut, seed)]++;
        }
    }
    for (const auto& [how, times] : ends)
    {
        std::printf("%s: %u\n", how.c_str(), times);
        EXPECT_TRUE(how == "done" || how == "boot-failed" || how == "gone")
            << how;
    }
    EXPECT_GT(ends["done"], ends["boot-failed"]);
    EXPECT_GT(ends["boot-failed"], 0U);
}

} // namespace
} // namespace airlock::machine
