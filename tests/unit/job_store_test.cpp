#include "boot_request.hpp"
#include "bootsrv/job_store.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "error_of.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <fstream>
#include <thread>

namespace airlock::boot
{
namespace
{

using http::Problem;
using test::errorOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr std::uint64_t diskBytes = 4U << 20;

JobRequest request(const std::string& tenant = "blue", std::size_t disks = 1)
{
    JobRequest out = test::smallRequest(diskBytes, tenant);
    out.guest.nics = {{"52:54:00:a1:0c:02"}};
    out.disks.resize(disks, out.disks.front());
    out.timeout = std::chrono::seconds(60);
    return out;
}

Bytes image(std::uint8_t value, std::uint64_t bytes = diskBytes)
{
    return test::imageStream(bytes, 2, value);
}

std::string codeOf(const std::function<void()>& call)
{
    try
    {
        call();
    }
    catch (const Problem& problem)
    {
        return std::to_string(problem.status()) + " " + problem.code();
    }
    catch (const Refused& refused)
    {
        return std::string("400 ") + refused.what();
    }
    return "fine";
}

class JobStoreTest : public testing::Test
{
  protected:
    JobStoreTest() { open(); }

    void open()
    {
        store.reset();
        store = std::make_unique<JobStore>(directory.path() / "state", quota);
    }

    std::string create(const JobRequest& job = request())
    {
        return store->create("host1", job).status.id;
    }

    void put(const std::string& id, std::size_t disk = 0,
             std::uint8_t value = 1)
    {
        auto upload = store->upload("host1", id, disk);
        upload->feed(image(value));
        upload->finish();
    }

    std::string queue(const JobRequest& job = request())
    {
        std::string id = create(job);
        for (std::size_t i = 0; i < job.disks.size(); i++)
        {
            put(id, i);
        }
        store->seal("host1", id);
        return id;
    }

    JobState stateOf(const std::string& id)
    {
        return store->status("host1", id).state;
    }

    /** What a worker leaves. */
    JobResult finish(const Work& work)
    {
        fs::create_directories(work.directory / "out");
        writeFileAtomic(resultFile(work.directory, ResultFile::manifest), "{}");
        writeFileAtomic(resultFile(work.directory, ResultFile::disk, 0), "d");
        JobResult result;
        result.memoryBytes = 17;
        result.disks.push_back(DeltaFile{1, Digest{}});
        store->done(work.id, result);
        return result;
    }

    fs::path pathOf(const std::string& id)
    {
        return directory.path() / "state" / "jobs" / id;
    }

    TempDirectory directory{"job-store-test"};
    Quota quota;
    std::unique_ptr<JobStore> store;
};

TEST_F(JobStoreTest, aJobFromBeginningToEnd)
{
    JobRequest job = request();
    std::string id = create(job);
    EXPECT_EQ(id, jobId(job.job.nonce));
    EXPECT_EQ(stateOf(id), JobState::receiving);
    put(id);
    EXPECT_EQ(store->seal("host1", id).state, JobState::queued);
    auto work = store->next();
    ASSERT_TRUE(work);
    EXPECT_EQ(work->id, id);
    EXPECT_EQ(stateOf(id), JobState::booting);
    store->stage(id, "start", 0);
    store->stage(id, "boot", 1.5);
    JobStatus status = store->status("host1", id);
    EXPECT_EQ(status.stage, "boot");
    EXPECT_EQ(status.seconds.at("start"), 1.5);
    EXPECT_EQ(status.tries, 1U);
    finish(*work);
    status = store->status("host1", id);
    EXPECT_EQ(status.state, JobState::done);
    EXPECT_EQ(status.result->memoryBytes, 17U);
    EXPECT_TRUE(store->openResult("host1", id, ResultFile::manifest));
    EXPECT_EQ(store->remove("host1", id).state, JobState::gone);
    EXPECT_FALSE(fs::exists(pathOf(id) / "disks"));
    EXPECT_FALSE(fs::exists(pathOf(id) / "out"));
}

TEST_F(JobStoreTest, uploadsAreStoredSparseAndWhole)
{
    std::string id = create();
    put(id, 0, 5);
    fs::path file = diskFile(pathOf(id), 0);
    EXPECT_EQ(fs::file_size(file), diskBytes);
    Bytes page(4096);
    UniqueFd fd = openFile(file, O_RDONLY);
    readExactAt(fd.get(), page, 8192);
    EXPECT_THAT(page, testing::Each(5));
    readExactAt(fd.get(), page, 4096);
    EXPECT_THAT(page, testing::Each(0));
}

TEST_F(JobStoreTest, createIsIdempotentByItsNonce)
{
    JobRequest job = request();
    EXPECT_TRUE(store->create("host1", job).fresh);
    EXPECT_FALSE(store->create("host1", job).fresh);
    JobRequest other = job;
    other.guest.vcpus++;
    EXPECT_EQ(codeOf([&] { store->create("host1", other); }), "409 nonce-used");
    EXPECT_EQ(codeOf([&] { store->create("host2", job); }), "409 nonce-used");
    store->remove("host1", jobId(job.job.nonce));
    EXPECT_EQ(codeOf([&] { store->create("host1", job); }), "410 gone");
    open();
    EXPECT_EQ(codeOf([&] { store->create("host1", job); }), "410 gone");
}

TEST_F(JobStoreTest, otherHostsSeeNothing)
{
    std::string id = create();
    EXPECT_EQ(codeOf([&] { store->status("host2", id); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { store->remove("host2", id); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { store->upload("host2", id, 0); }), "404 not-found");
    EXPECT_EQ(codeOf([&] { store->seal("host2", id); }), "404 not-found");
    EXPECT_TRUE(store->list("host2").empty());
    EXPECT_EQ(store->list("host1").size(), 1U);
    EXPECT_EQ(stateOf(id), JobState::receiving);
}

TEST_F(JobStoreTest, callsOutOfOrderChangeNothing)
{
    std::string id = create(request("blue", 2));
    EXPECT_EQ(codeOf([&] { store->seal("host1", id); }), "409 incomplete");
    put(id, 1);
    EXPECT_EQ(codeOf([&] { store->seal("host1", id); }), "409 incomplete");
    EXPECT_EQ(codeOf([&] { store->upload("host1", id, 2); }), "404 not-found");
    EXPECT_EQ(
        codeOf([&] { store->openResult("host1", id, ResultFile::state); }),
        "409 not-done");
    put(id, 0);
    store->seal("host1", id);
    EXPECT_EQ(codeOf([&] { store->upload("host1", id, 0); }),
              "409 not-receiving");
    EXPECT_EQ(store->seal("host1", id).state, JobState::queued);
}

TEST_F(JobStoreTest, aNewUploadEndsTheOneBefore)
{
    std::string id = create();
    auto first = store->upload("host1", id, 0);
    Bytes stream = image(1);
    first->feed(ByteView(stream).first(100));
    auto second = store->upload("host1", id, 0);
    EXPECT_EQ(codeOf([&] { first->feed(ByteView(stream).subspan(100)); }),
              "409 superseded");
    second->feed(image(2));
    second->finish();
    EXPECT_EQ(codeOf([&] { first->finish(); }),
              "400 image stream: ends before its end record");
    EXPECT_TRUE(store->status("host1", id).uploaded[0]);
}

TEST_F(JobStoreTest, aBrokenUploadLeavesNothing)
{
    std::string id = create();
    {
        auto upload = store->upload("host1", id, 0);
        Bytes stream = image(1);
        upload->feed(ByteView(stream).first(stream.size() - 1));
        EXPECT_THROW(upload->finish(), Refused);
    }
    EXPECT_TRUE(fs::is_empty(pathOf(id) / "disks"));
    auto upload = store->upload("host1", id, 0);
    EXPECT_THROW(upload->feed(image(1, 2 * diskBytes)), Refused);
    EXPECT_FALSE(store->status("host1", id).uploaded[0]);
}

TEST_F(JobStoreTest, quotasHold)
{
    quota.jobs = 3;
    quota.jobsPerHost = 2;
    quota.jobBytes = 100U << 20;
    quota.totalBytes = 150U << 20;
    quota.boot = std::chrono::seconds(100);
    open();
    JobRequest large = request("blue", 8);
    large.guest.memory = 96U << 20;
    EXPECT_EQ(codeOf([&] { create(large); }), "413 too-large");
    JobRequest slow = request();
    slow.timeout = std::chrono::seconds(101);
    EXPECT_THAT(codeOf([&] { create(slow); }), HasSubstr("timeout-seconds"));
    std::string first = create();
    create();
    EXPECT_EQ(codeOf([&] { create(); }), "429 too-many-jobs");
    EXPECT_EQ(codeOf([&] { store->create("host2", request()); }),
              "507 no-space");
    store->remove("host1", first);
    EXPECT_EQ(codeOf([&] { create(); }), "fine");
}

TEST_F(JobStoreTest, aNewProcessTakesUpWhatItFinds)
{
    std::string receiving = create();
    put(receiving);
    auto cut = store->upload("host1", receiving, 0);
    std::string queued = queue();
    std::string booting = queue();
    // The first of the queue is booted.
    auto work = store->next();
    ASSERT_EQ(work->id, queued);
    fs::create_directories(runDirectory(work->directory));
    fs::create_directories(work->directory / "out");
    std::ofstream(runDirectory(work->directory) / "rest") << "x";

    open();
    EXPECT_EQ(stateOf(receiving), JobState::receiving);
    EXPECT_TRUE(store->status("host1", receiving).uploaded[0]);
    EXPECT_EQ(stateOf(queued), JobState::queued);
    EXPECT_EQ(stateOf(booting), JobState::queued);
    EXPECT_FALSE(fs::exists(runDirectory(pathOf(queued))));
    EXPECT_FALSE(fs::exists(pathOf(queued) / "out"));
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry :
         fs::directory_iterator(pathOf(receiving) / "disks"))
    {
        files++;
    }
    EXPECT_EQ(files, 1U);
}

TEST_F(JobStoreTest, aBootThatIsCutOffEachTimeIsGivenUp)
{
    std::string id = queue();
    for (unsigned i = 1; i <= quota.tries; i++)
    {
        EXPECT_EQ(stateOf(id), JobState::queued);
        ASSERT_TRUE(store->next());
        EXPECT_EQ(store->status("host1", id).tries, i);
        open();
    }
    EXPECT_EQ(stateOf(id), JobState::failed);
    EXPECT_EQ(store->status("host1", id).error->code, "gave-up");
}

TEST_F(JobStoreTest, jobsFromBeforeTheMachineWasRestartedAreLost)
{
    std::string id = queue();
    fs::path file = pathOf(id) / "state.json";
    Json state = parseJson(readTextFile(file, 1U << 20), "state");
    state["boot-id"] = "another";
    writeFileAtomic(file, dumpJson(state));
    open();
    EXPECT_EQ(stateOf(id), JobState::failed);
    EXPECT_EQ(store->status("host1", id).error->code, "lost");
}

TEST_F(JobStoreTest, garbageInTheDirectoryIsRemoved)
{
    std::string id = create();
    std::string other = create();
    writeFileAtomic(pathOf(id) / "state.json", "{");
    fs::create_directories(directory.path() / "state/jobs/half.new");
    open();
    EXPECT_EQ(codeOf([&] { stateOf(id); }), "404 not-found");
    EXPECT_EQ(stateOf(other), JobState::receiving);
    EXPECT_FALSE(fs::exists(directory.path() / "state/jobs/half.new"));
}

TEST_F(JobStoreTest, oneDirectoryHasOneStore)
{
    EXPECT_THROW(JobStore(directory.path() / "state", quota), Error);
}

TEST_F(JobStoreTest, tenantsTakeTurns)
{
    std::string blue1 = queue(request("blue"));
    std::string blue2 = queue(request("blue"));
    std::string blue3 = queue(request("blue"));
    std::string red1 = queue(request("red"));
    std::string red2 = queue(request("red"));
    std::vector<std::string> order;
    for (int i = 0; i < 5; i++)
    {
        order.push_back(store->next()->id);
    }
    EXPECT_THAT(order, testing::ElementsAre(blue1, red1, blue2, red2, blue3));
}

TEST_F(JobStoreTest, removingABootCancelsIt)
{
    std::string id = queue();
    auto work = store->next();
    EXPECT_FALSE(*work->cancelled);
    store->remove("host1", id);
    EXPECT_TRUE(*work->cancelled);
    finish(*work);
    EXPECT_EQ(stateOf(id), JobState::gone);
    EXPECT_FALSE(fs::exists(work->directory / "out"));
}

TEST_F(JobStoreTest, whatIsKeptTooLongGoes)
{
    quota.keep = std::chrono::seconds(0);
    open();
    std::string waiting = create();
    std::string queued = queue();
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    store->expire();
    EXPECT_EQ(stateOf(waiting), JobState::gone);
    EXPECT_EQ(stateOf(queued), JobState::queued);
}

/** A small file system in the place of a directory; nobody else sees it. */
class SmallDisk
{
  public:
    explicit SmallDisk(fs::path where) : where_(std::move(where))
    {
        mounted_ =
            ::unshare(CLONE_NEWNS) == 0 &&
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
            ::mount("tmpfs", where_.c_str(), "tmpfs", 0, "size=1m") == 0;
    }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;
    ~SmallDisk()
    {
        if (mounted_)
        {
            ::umount2(where_.c_str(), MNT_DETACH);
        }
    }

    bool mounted() const { return mounted_; }

    /** Leaves not a byte. */
    void fill() const
    {
        std::ofstream file(where_ / "filler", std::ios::binary);
        Bytes page(4096, 1);
        while (file.write(reinterpret_cast<const char*>(page.data()),
                          static_cast<std::streamsize>(page.size()))
                   .flush())
        {}
    }

  private:
    fs::path where_;
    bool mounted_ = false;
};

TEST_F(JobStoreTest, onAFullDiskAJobCanFailAndBeRemoved)
{
    store.reset();
    fs::create_directory(directory.path() / "small");
    SmallDisk disk(directory.path() / "small");
    ASSERT_TRUE(disk.mounted()) << "this test needs root, to mount a tmpfs";
    store = std::make_unique<JobStore>(directory.path() / "small/state", quota);
    std::string fails = queue();
    std::string removed = create();
    put(removed);
    auto work = store->next();
    disk.fill();
    EXPECT_EQ(codeOf([&] { create(); }), "507 no-space");
    // What cannot be noted has not happened.
    EXPECT_EQ(codeOf([&] {
                  store->done(work->id, JobResult{17, {}});
              }),
              "507 no-space");
    EXPECT_EQ(stateOf(fails), JobState::booting);
    EXPECT_FALSE(store->status("host1", fails).result);
    store->failed(work->id, {"no-space", "no room"});
    EXPECT_EQ(stateOf(fails), JobState::failed);
    EXPECT_EQ(store->remove("host1", removed).state, JobState::gone);
    EXPECT_EQ(stateOf(removed), JobState::gone);
    store.reset(); // before its directory goes
}

TEST_F(JobStoreTest, aBootThatCannotBeNotedIsNoTry)
{
    store.reset();
    fs::create_directory(directory.path() / "small");
    SmallDisk disk(directory.path() / "small");
    ASSERT_TRUE(disk.mounted()) << "this test needs root, to mount a tmpfs";
    store = std::make_unique<JobStore>(directory.path() / "small/state", quota);
    std::string id = queue();
    disk.fill();
    EXPECT_EQ(codeOf([&] { store->next(); }), "507 no-space");
    EXPECT_EQ(store->status("host1", id).tries, 0U);
    EXPECT_EQ(stateOf(id), JobState::queued);
    fs::remove(directory.path() / "small/filler");
    EXPECT_TRUE(store->next());
    EXPECT_EQ(store->status("host1", id).tries, 1U);
    store.reset(); // before its directory goes
}

TEST_F(JobStoreTest, stoppingWakesTheWorkers)
{
    std::thread worker([this] { EXPECT_FALSE(store->next()); });
    store->stop();
    worker.join();
}

TEST(JobRequest, writesWhatItReads)
{
    JobRequest job = request("red", 3);
    job.disks[1].readOnly = true;
    job.options.devices["hpet"] = true;
    job.policy = "serial:login:";
    JobRequest again = JobRequest::parse(dumpJson(job.toJson()));
    EXPECT_EQ(again.toJson(), job.toJson());
    EXPECT_EQ(again.guest.uuid, job.job.vm);
    EXPECT_EQ(again.job, job.job);
}

TEST(JobRequest, refusesWhatCannotBeStarted)
{
    auto refused = [](const char* where, const Json& value) {
        Json document = request().toJson();
        document[Json::json_pointer(where)] = value;
        return errorOf([&] { JobRequest::parse(dumpJson(document)); });
    };
    EXPECT_THAT(refused("/job/vm", "x"), HasSubstr("job.vm"));
    EXPECT_THAT(refused("/job/nonce", "00"), HasSubstr("job.nonce"));
    EXPECT_THAT(refused("/guest/vcpus", 0), HasSubstr("vCPUs"));
    EXPECT_THAT(refused("/guest/vcpus", 65), HasSubstr("vcpus"));
    EXPECT_THAT(refused("/guest/memory-bytes", 4097), HasSubstr("memory"));
    EXPECT_THAT(refused("/guest/cpu-model", "host"), HasSubstr("CPU model"));
    EXPECT_THAT(refused("/guest/cpu-model", "a,b=c"), HasSubstr("CPU model"));
    EXPECT_THAT(refused("/guest/name", "a,b"), HasSubstr("name"));
    EXPECT_THAT(refused("/guest/nics/0/mac", "x"), HasSubstr("MAC"));
    EXPECT_THAT(refused("/guest/accelerator", "xen"), HasSubstr("kvm nor tcg"));
    EXPECT_THAT(refused("/disks/0/bytes", 513), HasSubstr("disks[0].bytes"));
    EXPECT_THAT(refused("/policy", "magic"), HasSubstr("policy"));
    EXPECT_THAT(refused("/tenant", "a\nb"), HasSubstr("tenant"));
    EXPECT_THAT(refused("/devices", Json{{"a,b", true}}), HasSubstr("devices"));
    EXPECT_THAT(refused("/extra", 1), HasSubstr("extra"));
}

TEST(JobStatus, writesWhatItReads)
{
    JobStatus status;
    status.id = "0123";
    status.state = JobState::done;
    status.uploaded = {true, false};
    status.seconds["boot"] = 1.5;
    status.error = {"timeout", "late"};
    status.result.emplace();
    status.result->memoryBytes = 5;
    status.result->disks = {std::nullopt, DeltaFile{7, Digest{1}}};
    Json document = status.toJson();
    EXPECT_EQ(JobStatus::parse(JsonField(document, "status")).toJson(),
              document);
}

} // namespace
} // namespace airlock::boot
