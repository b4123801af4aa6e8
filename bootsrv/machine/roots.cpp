#include "bootsrv/machine/roots.hpp"

#include "common/sha256.hpp"

#include <algorithm>

namespace airlock::machine
{

namespace
{

/** What a root is called in the record. */
std::string nameOf(const Secret& root)
{
    constexpr std::string_view label = "airlock root name v1";
    std::array<std::uint8_t, 16> out{};
    hkdf(root, asBytes(label), out);
    return toHex(out);
}

} // namespace

bool switchHas(const KeptRecord& record, const Secret& root,
               const Secret& previous)
{
    return previous.empty() || !record.site.switchTo ||
           record.root == nameOf(root);
}

Roots::Roots(const Secret& root, const Secret& previous, Kept& kept)
    : root_(root.view()), previous_(previous.view()), kept_(kept),
      pending_(!switchHas(kept.get(), root, previous)),
      which_(pending_ ? before : now)
{}

Epochs& Roots::epochsOf(Which which, KeptRecord& record) const
{
    if (!pending_ || which == before)
    {
        return record.epochs;
    }
    if (!record.newEpochs)
    {
        record.newEpochs.emplace();
    }
    return *record.newEpochs;
}

Roots::Shown Roots::take(std::uint64_t window)
{
    const std::uint64_t rounds = rounds_[which_];
    bool again = false;
    kept_.change([&](KeptRecord& record) {
        Epochs& epochs = epochsOf(which_, record);
        again = epochs.atEnd(window, rounds);
        epoch_ = epochs.take(window, rounds);
    });
    rounds_[which_] += again ? 1 : 0;
    return {which_ == now ? root_ : previous_, epoch_};
}

void Roots::opened()
{
    kept_.change([this](KeptRecord& record) {
        Epochs& epochs = epochsOf(which_, record);
        epochs.opened = std::max(epochs.opened, epoch_);
    });
    rounds_[which_] = 0;
    if (which_ == now && pending_)
    {
        told();
    }
}

void Roots::failed()
{
    if (pending_)
    {
        which_ = which_ == now ? before : now;
    }
}

const Secret* Roots::untold() const
{
    return pending_ ? &root_ : nullptr;
}

void Roots::told()
{
    kept_.change([this](KeptRecord& record) {
        record.root = nameOf(root_);
        record.epochs = record.newEpochs.value_or(Epochs());
        record.newEpochs.reset();
    });
    pending_ = false;
    which_ = now;
    rounds_ = {};
}

} // namespace airlock::machine
