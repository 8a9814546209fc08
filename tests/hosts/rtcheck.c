// SPDX-License-Identifier: Apache-2.0
//
// Counts what a thread must not do while it plays in real time. Preload it into a host:
//
//   gcc -O2 -fPIC -shared rtcheck.c -o librtcheck.so -ldl -lpthread
//   LD_PRELOAD=./librtcheck.so host
//
// Between rtcheck_enter and rtcheck_leave (a section; the plugin finds both with dlsym) every allocation, every
// operation of a mutex, rwlock, condition or semaphore and every system call of that thread is counted. Outside a
// section, and on all other threads, nothing is. A test in the host reads the counters through the same library.
//
// System calls are caught by the kernel, not by their names in libc: "syscall user dispatch" sends SIGSYS for each one
// while the thread's selector byte says so. The handler counts it, makes it, and hands back its result. Calls answered
// by the vDSO (clock_gettime and the like) never enter the kernel and are none. A signal handler of the host that
// interrupts a section counts as part of it, unless it interrupts a system call.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum Kind
{
    MALLOC,
    CALLOC,
    REALLOC,
    FREE,
    POSIX_MEMALIGN,
    ALIGNED_ALLOC,
    MEMALIGN,
    MUTEX_LOCK,
    MUTEX_TRYLOCK,
    RWLOCK,
    CONDITION_WAIT,
    CONDITION_SIGNAL,
    SEMAPHORE,
    SYSTEM_CALL,
    KINDS
};

static const char* const names[KINDS] = {
    "malloc",     "calloc",        "realloc", "free",           "posix_memalign",   "aligned_alloc", "memalign",
    "mutex lock", "mutex trylock", "rwlock",  "condition wait", "condition signal", "semaphore",     "system call"};

// --- the calling thread ---

#define ALLOW ((char)0) // values of the kernel's selector
#define BLOCK ((char)1)

static _Thread_local __attribute__((tls_model("initial-exec"))) struct
{
    volatile char selector; // the kernel reads it at every system call of an armed thread
    volatile int paused;    // above 0 the checker itself is at work
    bool isArmed;
    int depth;
} self;

/// Until resume, what this thread does is the checker's own business.
static char pause_checking(void)
{
    const char selector = self.selector;
    self.selector = ALLOW;
    ++self.paused;
    return selector;
}

static void resume_checking(char selector)
{
    --self.paused;
    self.selector = selector;
}

// --- counting ---

enum
{
    MAX_FRAMES = 48,
    MAX_NUMBER = 1024,
    MAX_TEXT = 16384
};

typedef struct
{
    void* frames[MAX_FRAMES];
    int count;
    long number; // of the system call
} Trace;

static atomic_long sections, counts[KINDS], calls[MAX_NUMBER];
static atomic_int firstKind = -1;
static Trace traces[KINDS];

static void remember(enum Kind kind, long number)
{
    int none = -1;
    traces[kind].number = number;
    traces[kind].count = backtrace(traces[kind].frames, MAX_FRAMES);
    atomic_compare_exchange_strong(&firstKind, &none, (int)kind);
}

/// Counts if inside a section. Async-signal-safe: backtrace's library is loaded at the start.
static void note(enum Kind kind, long number)
{
    if (self.depth == 0 || self.paused > 0)
        return;
    const char selector = pause_checking();
    if (number >= 0 && number < MAX_NUMBER)
        atomic_fetch_add(&calls[number], 1);
    if (atomic_fetch_add(&counts[kind], 1) == 0)
        remember(kind, number);
    resume_checking(selector);
}

// --- system calls ---

static atomic_bool countsSyscalls;

#ifdef __x86_64__
#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#define PR_SYS_DISPATCH_ON 1
#endif
#ifndef SYS_USER_DISPATCH
#define SYS_USER_DISPATCH 2 // si_code
#endif
#define SA_RESTORER_FLAG 0x04000000ul

// The kernel lets system calls from this section of the library pass, whatever the selector says.
#define GATE "rtcheck_gate"
extern const char __start_rtcheck_gate[] __attribute__((visibility("hidden")));
extern const char __stop_rtcheck_gate[] __attribute__((visibility("hidden")));

// The end of a signal handler. Unwinders know it by its bytes, and look one byte before it.
void rtcheck_restorer(void) __attribute__((visibility("hidden")));
__asm__(".pushsection " GATE ",\"ax\",@progbits\n"
        "nop\n"
        ".hidden rtcheck_restorer\n"
        ".globl rtcheck_restorer\n"
        ".type rtcheck_restorer,@function\n"
        "rtcheck_restorer: movq $15, %rax\n"
        "syscall\n"
        "nop\n"
        ".popsection\n");

static __attribute__((section(GATE), noinline)) long make_syscall(long number, const long* a)
{
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    long result = number;
    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/// rt_sigprocmask on the mask that the handler's return restores. SIGSYS stays open: blocked, it would be fatal.
static long change_mask(ucontext_t* context, const long* a)
{
    uint64_t mask, set;
    memcpy(&mask, &context->uc_sigmask, sizeof mask);
    if (a[3] != sizeof mask || (a[1] != 0 && (a[0] < SIG_BLOCK || a[0] > SIG_SETMASK)))
        return -EINVAL;
    const uint64_t old = mask;
    if (a[1] != 0)
    {
        memcpy(&set, (const void*)a[1], sizeof set);
        mask = a[0] == SIG_BLOCK ? mask | set : a[0] == SIG_UNBLOCK ? mask & ~set : set;
        mask &= ~(UINT64_C(1) << (SIGSYS - 1));
    }
    if (a[2] != 0)
        memcpy((void*)a[2], &old, sizeof old);
    memcpy(&context->uc_sigmask, &mask, sizeof mask);
    return 0;
}

/// Calls whose effect the handler's return would undo, or that return twice: the thread itself has to make them.
static bool must_run_in_place(long number)
{
    return number == SYS_clone || number == SYS_clone3 || number == SYS_fork || number == SYS_vfork ||
           number == SYS_sigaltstack;
}

static void handle_syscall(ucontext_t* context, long number)
{
    greg_t* const r = context->uc_mcontext.gregs;
    const long a[6] = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10], r[REG_R8], r[REG_R9]};
    if (number == SYS_rt_sigreturn) // a signal handler inside the section ends: it may, through the gate
    {
        r[REG_RIP] = (greg_t)(uintptr_t)rtcheck_restorer;
        self.selector = BLOCK;
        return;
    }
    note(SYSTEM_CALL, number);
    if (must_run_in_place(number)) // the rest of this section's system calls go uncounted
    {
        r[REG_RIP] -= 2; // the length of the instruction
        r[REG_RAX] = number;
        return;
    }
    r[REG_RAX] = number == SYS_rt_sigprocmask ? change_mask(context, a) : make_syscall(number, a);
    self.selector = BLOCK;
}

static void on_sigsys(int signal, siginfo_t* info, void* context)
{
    self.selector = ALLOW;
    if (info->si_code == SYS_USER_DISPATCH)
        handle_syscall(context, info->si_syscall);
    else // not ours: die of it, as without the checker
    {
        (void)sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        (void)raise(signal);
    }
}

/// Past libc, which would insist on a restorer of its own.
static bool install_handler(void)
{
    const struct
    {
        void (*handler)(int, siginfo_t*, void*);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } action = {on_sigsys, SA_SIGINFO | SA_NODEFER | SA_RESTORER_FLAG, rtcheck_restorer, 0};
    return make_syscall(SYS_rt_sigaction, (long[6]){SIGSYS, (long)&action, 0, sizeof action.mask}) == 0;
}

static bool dispatch_this_thread(void)
{
    const long length = __stop_rtcheck_gate - __start_rtcheck_gate;
    return prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, __start_rtcheck_gate, length, &self.selector) == 0;
}

static bool kernel_dispatches(void)
{
    return install_handler() && dispatch_this_thread() &&
           prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) == 0;
}

static void arm_this_thread(void)
{
    sigset_t sigsys;
    sigemptyset(&sigsys);
    sigaddset(&sigsys, SIGSYS);
    self.isArmed = pthread_sigmask(SIG_UNBLOCK, &sigsys, NULL) == 0 && dispatch_this_thread();
    if (!self.isArmed)
        countsSyscalls = false;
}
#else
static bool kernel_dispatches(void) { return false; }
static void arm_this_thread(void) {}
#endif

/// The kernel arms no child.
static void forget_arming(void) { self.isArmed = false; }

__attribute__((constructor)) static void prepare(void)
{
    void* frame[1];
    backtrace(frame, 1);
    countsSyscalls = kernel_dispatches();
    (void)pthread_atfork(NULL, NULL, forget_arming);
}

// --- what the plugin calls ---

void rtcheck_enter(void)
{
    if (countsSyscalls && !self.isArmed)
        arm_this_thread();
    if (self.depth++ > 0)
        return;
    atomic_fetch_add(&sections, 1);
    self.selector = BLOCK;
}

void rtcheck_leave(void)
{
    if (self.depth > 0 && --self.depth == 0)
        self.selector = ALLOW;
}

// --- what a test calls, outside sections ---

/// The name of a kind; NULL after the last one.
const char* rtcheck_name(int kind) { return kind >= 0 && kind < KINDS ? names[kind] : NULL; }

long rtcheck_count(int kind) { return kind >= 0 && kind < KINDS ? atomic_load(&counts[kind]) : 0; }

/// How often one system call was made, by its number.
long rtcheck_syscalls(int number) { return number >= 0 && number < MAX_NUMBER ? atomic_load(&calls[number]) : 0; }

/// Sections entered, nested ones not counted again.
long rtcheck_sections(void) { return atomic_load(&sections); }

/// 0 when the kernel or the processor has no syscall user dispatch: then no system call is counted.
int rtcheck_counts_syscalls(void) { return countsSyscalls; }

void rtcheck_reset(void)
{
    atomic_store(&sections, 0);
    atomic_store(&firstKind, -1);
    for (int i = 0; i < KINDS; ++i)
        atomic_store(&counts[i], 0);
    for (int i = 0; i < MAX_NUMBER; ++i)
        atomic_store(&calls[i], 0);
}

static int append_frame(char* text, size_t size, void* frame)
{
    Dl_info here = {0}, there = {0};
    dladdr((void*)rtcheck_name, &here);
    if (dladdr(frame, &there) == 0 || there.dli_fname == NULL)
        return snprintf(text, size, "  ? %p\n", frame);
    if (there.dli_fbase == here.dli_fbase)
        return 0; // the checker itself
    const char* symbol = there.dli_sname != NULL ? there.dli_sname : "";
    return snprintf(text, size, "  %s +0x%tx %s\n", there.dli_fname, (char*)frame - (char*)there.dli_fbase, symbol);
}

/// Where a kind happened first: one line per frame, innermost first, as "library +offset symbol". Empty if it did not.
const char* rtcheck_trace(int kind)
{
    static char text[MAX_TEXT];
    text[0] = '\0';
    if (rtcheck_count(kind) == 0)
        return text;
    const Trace* trace = &traces[kind];
    int used = kind == SYSTEM_CALL ? snprintf(text, MAX_TEXT, "system call %ld\n", trace->number)
                                   : snprintf(text, MAX_TEXT, "%s\n", names[kind]);
    for (int i = 0; i < trace->count && used < MAX_TEXT; ++i)
        used += append_frame(text + used, (size_t)(MAX_TEXT - used), trace->frames[i]);
    return text;
}

/// The same for the very first violation.
const char* rtcheck_first(void) { return rtcheck_trace(atomic_load(&firstKind)); }

// --- allocations ---

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
extern void __libc_free(void*);

void* malloc(size_t size)
{
    note(MALLOC, -1);
    return __libc_malloc(size);
}

void* calloc(size_t count, size_t size)
{
    note(CALLOC, -1);
    return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size)
{
    note(REALLOC, -1);
    return __libc_realloc(old, size);
}

void free(void* block)
{
    if (block == NULL)
        return;
    note(FREE, -1);
    __libc_free(block);
}

void* aligned_alloc(size_t alignment, size_t size)
{
    note(ALIGNED_ALLOC, -1);
    return __libc_memalign(alignment, size);
}

void* memalign(size_t alignment, size_t size)
{
    note(MEMALIGN, -1);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void** block, size_t alignment, size_t size)
{
    note(POSIX_MEMALIGN, -1);
    if (alignment % sizeof(void*) != 0 || alignment == 0 || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    void* const made = __libc_memalign(alignment, size);
    if (made == NULL)
        return ENOMEM;
    *block = made;
    return 0;
}

// --- locks, conditions, semaphores ---

/// libc's own function. Conditions have an older version on x86-64, which must not be found.
static void* find_next(const char* name)
{
    const char selector = pause_checking();
    void* found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
    if (found == NULL)
        found = dlsym(RTLD_NEXT, name);
    resume_checking(selector);
    return found;
}

#define WATCH(kind, name, parameters, arguments)                                                                       \
    int name parameters                                                                                                \
    {                                                                                                                  \
        static int(*_Atomic next) parameters;                                                                          \
        if (atomic_load(&next) == NULL)                                                                                \
            atomic_store(&next, (int(*) parameters)find_next(#name));                                                  \
        note(kind, -1);                                                                                                \
        return next arguments;                                                                                         \
    }

typedef const struct timespec* Time;

WATCH(MUTEX_LOCK, pthread_mutex_lock, (pthread_mutex_t * m), (m))
WATCH(MUTEX_LOCK, pthread_mutex_timedlock, (pthread_mutex_t * m, Time t), (m, t))
WATCH(MUTEX_LOCK, pthread_mutex_clocklock, (pthread_mutex_t * m, clockid_t c, Time t), (m, c, t))
WATCH(MUTEX_TRYLOCK, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
WATCH(RWLOCK, pthread_rwlock_rdlock, (pthread_rwlock_t * l), (l))
WATCH(RWLOCK, pthread_rwlock_wrlock, (pthread_rwlock_t * l), (l))
WATCH(RWLOCK, pthread_rwlock_tryrdlock, (pthread_rwlock_t * l), (l))
WATCH(RWLOCK, pthread_rwlock_trywrlock, (pthread_rwlock_t * l), (l))
WATCH(RWLOCK, pthread_rwlock_timedrdlock, (pthread_rwlock_t * l, Time t), (l, t))
WATCH(RWLOCK, pthread_rwlock_timedwrlock, (pthread_rwlock_t * l, Time t), (l, t))
WATCH(CONDITION_WAIT, pthread_cond_wait, (pthread_cond_t * c, pthread_mutex_t* m), (c, m))
WATCH(CONDITION_WAIT, pthread_cond_timedwait, (pthread_cond_t * c, pthread_mutex_t* m, Time t), (c, m, t))
WATCH(CONDITION_WAIT, pthread_cond_clockwait, (pthread_cond_t * c, pthread_mutex_t* m, clockid_t k, Time t),
      (c, m, k, t))
WATCH(CONDITION_SIGNAL, pthread_cond_signal, (pthread_cond_t * c), (c))
WATCH(CONDITION_SIGNAL, pthread_cond_broadcast, (pthread_cond_t * c), (c))
WATCH(SEMAPHORE, sem_wait, (sem_t * s), (s))
WATCH(SEMAPHORE, sem_trywait, (sem_t * s), (s))
WATCH(SEMAPHORE, sem_timedwait, (sem_t * s, Time t), (s, t))
WATCH(SEMAPHORE, sem_clockwait, (sem_t * s, clockid_t c, Time t), (s, c, t))
WATCH(SEMAPHORE, sem_post, (sem_t * s), (s))
