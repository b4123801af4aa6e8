#include "common/error.hpp"
#include "devmodel/admission/admission.hpp"

#include <fcntl.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <initializer_list>
#include <memory>

namespace airlock::admission
{

namespace
{

constexpr rlim_t addressSpace = 4ULL << 30;
constexpr rlim_t processorSeconds = 60;
constexpr rlim_t stateMax = 64U << 20;

void limit(int resource, rlim_t value)
{
    rlimit both = {value, value};
    if (::setrlimit(static_cast<__rlimit_resource_t>(resource), &both) != 0)
    {
        throwErrno("cannot limit the admission's process");
    }
}

struct Release
{
    void operator()(void* filter) const { seccomp_release(filter); }
};

void check(int result)
{
    if (result < 0)
    {
        throw SystemError("cannot confine the admission's process", -result);
    }
}

} // namespace

void confine()
{
    limit(RLIMIT_AS, addressSpace);
    limit(RLIMIT_CPU, processorSeconds);
    limit(RLIMIT_FSIZE, stateMax);
    limit(RLIMIT_CORE, 0);

    std::unique_ptr<void, Release> filter(seccomp_init(SCMP_ACT_KILL_PROCESS));
    if (!filter)
    {
        throw Error("cannot make a seccomp filter");
    }
    for (int call :
         {SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(write),
          SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(fstat),
          SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(brk), SCMP_SYS(madvise),
          SCMP_SYS(futex), SCMP_SYS(clock_gettime), SCMP_SYS(exit),
          SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn)})
    {
        check(seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0));
    }
    // How libc asks for the size of an open file.
    check(seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(newfstatat),
                           1, SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH)));
    for (int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)})
    {
        check(seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 1,
                               SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)));
    }
    // Sets no_new_privs as well.
    check(seccomp_load(filter.get()));
}

} // namespace airlock::admission
