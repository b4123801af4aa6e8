// First process of a dirty image for tests: root of a machine that was taken
// over, trying what the test ordered.
#include "bootsrv/machine/init.hpp"
#include "tests/modes/dirty_attacks.hpp"

#include <sstream>

using namespace airlock;

namespace
{

void work(const std::filesystem::path& staging)
{
    const auto& attacks = probe::dirtyAttacks();
    std::istringstream words(probe::order(staging));
    for (std::string word; words >> word;)
    {
        if (const auto found = attacks.find(word); found != attacks.end())
        {
            probe::tryAttack(word, found->second);
        }
    }
}

} // namespace

int main()
{
    machine::dirtyInit(std::chrono::minutes(5), work);
}
