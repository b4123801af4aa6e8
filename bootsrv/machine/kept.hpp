#pragma once

#include "bootsrv/job.hpp"
#include "bootsrv/jobs.hpp"
#include "bootsrv/machine/kept_store.hpp"
#include "common/mac_address.hpp"

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace airlock::machine
{

/** How a boot host shows its switch that it is clean; as in
 * docs/protocol-switch.md. */
enum class ProofMethod
{
    mac,
    mac96,
    quote,
};

/** What a machine is told when it is installed. */
struct Site
{
    struct Network
    {
        std::string address; ///< "10.9.0.2/24"
        std::string gateway; ///< may be empty
    };
    struct Switch
    {
        std::string host;
        std::uint16_t port = 7421;
        ProofMethod method = ProofMethod::mac96;
        std::uint16_t etherType = 0x88B5;
        std::uint64_t window = 16; ///< epochs ahead that it accepts
        std::uint64_t leaseSeconds = 10;
        /** quote: the address to use; missing: one of each epoch. */
        std::optional<MacAddress> address;
    };
    /** PEM texts. */
    struct Tls
    {
        std::string certificate;
        std::string key;
        std::string authorities;
    };

    std::optional<Network> network; ///< missing: left alone
    std::optional<Switch> switchTo; ///< missing: nobody is asked
    Tls tls;
    std::string listen = "::";
    std::uint16_t port = 7420;
    boot::Quota quota; ///< times and tries; there is room for one job

    Json toJson() const;
    static Site parse(const JsonField& field);
    static Site parse(std::string_view text, std::string_view where);
};

/** The one job, as it is kept. */
struct KeptJob
{
    std::string owner;
    boot::JobRequest request;
    boot::JobStatus status;
    std::int64_t since = 0; ///< when the state was entered; Unix time
    SharedSecret key = std::make_shared<Secret>(Secret::random());
    /** Of a job that is `booting`: dirty mode may have run. */
    bool ran = false;
};

/** A job that is gone: its nonce is not to be used again. */
struct GoneJob
{
    std::string id;
    std::string owner;
    std::string print; ///< of the request
    std::int64_t since = 0;
};

/** Epochs of the switch's addresses. */
struct Epochs
{
    std::uint64_t opened = 0; ///< the last whose lease is known to have opened
    std::uint64_t next = 1;   ///< the one to try next

    /** Takes the one to try next; what was taken counts as tried. Of the
     * switch's window, and then from the beginning of it. `rounds`: how often
     * that was in vain. The last one may have opened unseen: then all of the
     * window is used up, and the next beyond it opens. So each round goes one
     * further, to twice the window at most. */
    std::uint64_t take(std::uint64_t window, std::uint64_t rounds);
    /** Whether take() would begin again. */
    bool atEnd(std::uint64_t window, std::uint64_t rounds) const;
};

/** All that clean mode keeps. */
struct KeptRecord
{
    static constexpr std::size_t maxGone = 64;

    Site site;
    Epochs epochs;
    /** Of which root, by a name that derives from it; "": the one that the
     * machine was enrolled with. */
    std::string root;
    /** Of a new root that the switch may have been told of. */
    std::optional<Epochs> newEpochs;
    std::optional<KeptJob> job;
    std::vector<GoneJob> gone; ///< the oldest first

    /** With secrets in it; the caller wipes it. */
    std::string toText() const;
    static KeptRecord parse(std::string_view text);
};

/** The record with its place on the disk. Safe to use from several threads. */
class Kept
{
  public:
    /** Loads it; throws what KeptStore::load() throws. */
    Kept(Blocks& blocks, const Secret& key,
         std::shared_ptr<SequenceAnchor> anchor);

    KeptRecord get() const;

    /** Applies a change and saves it. After an exception the record in memory
     * is the old one. */
    void change(const std::function<void(KeptRecord&)>& action,
                KeptStore::Write how = KeptStore::Write::once);

  private:
    mutable std::mutex mutex_;
    KeptStore store_;
    KeptRecord record_;
};

/** The first record of a machine, at its installation or in the first clean
 * boot; replaces what is there. */
void installKept(Blocks& blocks, const Secret& key,
                 std::shared_ptr<SequenceAnchor> anchor, const Site& site);

} // namespace airlock::machine
