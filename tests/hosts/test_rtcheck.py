# SPDX-License-Identifier: Apache-2.0
"""The checker itself: it counts each forbidden thing inside a section, and nothing else, and changes no result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rt_session import COMPILER, build_checker, compile_c, preloaded

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the checker is preloaded, and counts through Linux"),
    pytest.mark.skipif(COMPILER is None, reason="gcc, which compiles the checker and its probe, is missing"),
]


@dataclass(frozen=True)
class Act:
    """A piece of C, and what the checker counts when it runs inside a section."""

    code: str
    kinds: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    """System calls by name; those of `KNOWN_CALLS` that are not here are not made."""
    before: str = ""
    after: str = ""
    """Both run outside the section; `after` may use and change `result`."""
    result: int = 0


def call(name: str, code: str, **fields) -> Act:
    """An act that is one system call."""
    return Act(code, {"system call": 1}, {name: 1}, **fields)


KNOWN_CALLS = (
    "write", "read", "getpid", "clock_nanosleep", "futex", "mmap", "munmap", "sched_yield", "rt_sigprocmask",
)  # fmt: skip

HARMLESS = {
    "arithmetic": Act("for (int i = 0; i < 1000; ++i) result += i;", result=499500),
    "free of nothing": Act("free(NULL);"),
    "error number": Act("errno = 7; result = errno;", result=7),
    "other thread": Act(
        "stage = 1; while (stage != 2);",
        before="stage = 0; pthread_create(&other, NULL, violate_from_elsewhere, NULL);",
        after="pthread_join(other, NULL); for (int i = 0; i < 100; ++i) result += read(ends[0], bytes, 1);",
        result=100,
    ),
}

ALLOCATIONS = {
    "malloc": Act("kept = malloc(100);", {"malloc": 1}, after="free(kept);"),
    "calloc": Act("kept = calloc(10, 10);", {"calloc": 1}, after="free(kept);"),
    "realloc": Act("kept = realloc(kept, 120);", {"realloc": 1}, before="kept = malloc(100);", after="free(kept);"),
    "free": Act("free(kept);", {"free": 1}, before="kept = malloc(100);"),
    "aligned_alloc": Act("kept = aligned_alloc(64, 128);", {"aligned_alloc": 1}, after="free(kept);"),
    "memalign": Act("kept = memalign(64, 128);", {"memalign": 1}, after="result = (long)kept % 64; free(kept);"),
    "posix_memalign": Act(
        "result = posix_memalign((void**)&kept, 64, 128);",
        {"posix_memalign": 1},
        after="result += (long)kept % 64; free(kept);",
    ),
    "wrong posix_memalign": Act(
        "result = posix_memalign((void**)&kept, 24, 1) == EINVAL;", {"posix_memalign": 1}, result=1
    ),
    "strdup": Act('kept = strdup("libc allocates too");', {"malloc": 1}, after="free(kept);"),
    "operator new": Act("kept = operator_new(100);", {"malloc": 1}, after="operator_delete(kept);"),
    "operator delete": Act("operator_delete(kept);", {"free": 1}, before="kept = operator_new(100);"),
}

LOCKS = {
    "mutex lock": Act(
        "result = pthread_mutex_lock(&mutex);", {"mutex lock": 1}, after="result += pthread_mutex_unlock(&mutex);"
    ),
    "mutex trylock": Act(
        "result = pthread_mutex_trylock(&mutex);", {"mutex trylock": 1}, after="pthread_mutex_unlock(&mutex);"
    ),
    "taken mutex": Act(
        "result = pthread_mutex_trylock(&mutex) == EBUSY;",
        {"mutex trylock": 1},
        before="pthread_mutex_lock(&mutex);",
        after="pthread_mutex_unlock(&mutex);",
        result=1,
    ),
    "reader": Act("pthread_rwlock_rdlock(&rwlock);", {"rwlock": 1}, after="result = pthread_rwlock_unlock(&rwlock);"),
    "writer": Act("pthread_rwlock_wrlock(&rwlock);", {"rwlock": 1}, after="result = pthread_rwlock_unlock(&rwlock);"),
    "expired wait": Act(
        "result = pthread_cond_timedwait(&condition, &mutex, &past) == ETIMEDOUT;",
        {"condition wait": 1, "system call": 1},
        {"futex": 1},
        before="pthread_mutex_lock(&mutex);",
        after="pthread_mutex_unlock(&mutex);",
        result=1,
    ),
    "signal to nobody": Act("pthread_cond_signal(&condition);", {"condition signal": 1}),
    "broadcast to nobody": Act("pthread_cond_broadcast(&condition);", {"condition signal": 1}),
    "signal that wakes": Act(
        "result = pthread_cond_signal(&condition);",
        {"condition signal": 1, "system call": 1},
        {"futex": 1},
        before="start_waiter();",
        after="pthread_join(other, NULL);",
    ),
    "semaphore": Act("sem_post(&semaphore); result = sem_wait(&semaphore);", {"semaphore": 2}),
    "empty semaphore": Act("result = sem_trywait(&semaphore) == -1 && errno == EAGAIN;", {"semaphore": 1}, result=1),
}

SYSTEM_CALLS = {
    "write": call(
        "write",
        'result = write(ends[1], "demon", 5);',
        after='result += read(ends[0], bytes, 60) + (strcmp(bytes, "demon") == 0);',
        result=11,
    ),
    "read": call(
        "read",
        "result = read(ends[0], bytes, 60);",
        before='if (write(ends[1], "bridge", 6) != 6) exit(2);',
        after='result += strcmp(bytes, "bridge") == 0;',
        result=7,
    ),
    "failing write": call("write", "result = write(-1, bytes, 1) == -1 && errno == EBADF;", result=1),
    "nanosleep": call("clock_nanosleep", "result = nanosleep(&millisecond, NULL);"),
    "getpid": call("getpid", "result = syscall(SYS_getpid);", after="result -= getpid();"),
    "mmap": call(
        "mmap",
        "kept = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);",
        after="memset(kept, 7, 8192); result = ((char*)kept)[8191] + munmap(kept, 8192);",
        result=7,
    ),
    "yield": call("sched_yield", "result = sched_yield();"),
    "malloc that maps": Act(
        "kept = malloc(1 << 26);", {"malloc": 1, "system call": 1}, {"mmap": 1}, after="free(kept);"
    ),
    "nested section": call("getpid", "enter(); leave(); result = syscall(SYS_getpid);", after="result -= getpid();"),
    "blocked signal": call(
        "rt_sigprocmask",
        "result = pthread_sigmask(SIG_BLOCK, &usr1, &mask);",
        before="pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);",
        after="result += sigismember(&mask, SIGUSR1); result += 10 * blocks_usr1();",
        result=10,
    ),
    "signal handler": Act(
        "result = pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) + handled;",
        {"system call": 2},
        {"rt_sigprocmask": 1, "write": 1},
        before="handled = 0; signal(SIGUSR1, on_usr1); pthread_sigmask(SIG_BLOCK, &usr1, NULL); raise(SIGUSR1);",
        after="result += read(ends[0], bytes, 60) + blocks_usr1();",
        result=2,
    ),
}

COUNTED = HARMLESS | ALLOCATIONS | LOCKS | SYSTEM_CALLS

# How much these count depends on the version of libc; they must count something, and work.
INTRICATE = {
    "fork": Act(
        "child = fork(); if (child == 0) _exit(7);",
        after="waitpid(child, &status, 0); result = WEXITSTATUS(status);",
        result=7,
    ),
    "new thread": Act(
        "result = pthread_create(&other, NULL, answer, NULL);",
        after="pthread_join(other, &answered); result += (long)answered + blocks_usr1();",
        result=42,
    ),
    "new process": Act(
        "result = posix_spawnp(&child, *truth, NULL, NULL, truth, environ);",
        after="waitpid(child, &status, 0); result += status;",
    ),
    "formatted output": Act(
        'result = dprintf(ends[1], "%.3f", 1.5);',
        after='result += read(ends[0], bytes, 60) + (strcmp(bytes, "1.500") == 0);',
        result=11,
    ),
}

SECTION_ELSEWHERE = "section elsewhere"
ACTS = COUNTED | INTRICATE | {SECTION_ELSEWHERE: Act("", after="use_new_threads(10);")}

PROBE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void (*enter)(void), (*leave)(void), (*reset)(void);
static long (*count)(int), (*sections)(void), (*syscalls)(int);
static int (*counts_syscalls)(void);
static const char *(*kind_name)(int), *(*first)(void);
static void* (*operator_new)(size_t);
static void (*operator_delete)(void*);

static int ends[2], status;
static char bytes[64];
static void *volatile kept, *answered;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static sem_t semaphore;
static pthread_t other;
static pid_t child;
static volatile int handled;
static sigset_t usr1, mask;
static const struct timespec past = {1, 0}, millisecond = {0, 1000000};
static atomic_int stage;
static char* truth[] = {"true", NULL};

static void on_usr1(int number) { handled = number == SIGUSR1 && write(ends[1], "!", 1) == 1; }

static int blocks_usr1(void)
{
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    return sigismember(&mask, SIGUSR1);
}

static void* wait_once(void* unused)
{
    pthread_mutex_lock(&mutex);
    stage = 1;
    pthread_cond_wait(&condition, &mutex);
    pthread_mutex_unlock(&mutex);
    return unused;
}

static void start_waiter(void)
{
    stage = 0;
    pthread_create(&other, NULL, wait_once, NULL);
    while (stage == 0)
        sched_yield();
    pthread_mutex_lock(&mutex); // not before the waiter waits
    pthread_mutex_unlock(&mutex);
    nanosleep(&millisecond, NULL);
}

static void* violate_from_elsewhere(void* unused)
{
    while (stage == 0)
        sched_yield();
    for (int i = 0; i < 100; ++i)
    {
        pthread_mutex_lock(&mutex);
        kept = malloc(100);
        free(kept);
        pthread_mutex_unlock(&mutex);
        if (write(ends[1], "-", 1) != 1)
            exit(2);
    }
    stage = 2;
    return unused;
}

static void* answer(void* unused)
{
    (void)unused;
    return (void*)42;
}

static void* get_pid_in_section(void* unused)
{
    enter();
    syscall(SYS_getpid);
    leave();
    return unused;
}

static void use_new_threads(int threads)
{
    for (int i = 0; i < threads; ++i)
    {
        pthread_create(&other, NULL, get_pid_in_section, NULL);
        pthread_join(other, NULL);
    }
}

%(acts)s

static const struct { const char* name; int number; } known[] = {%(known)s};
static const struct
{
    const char* name;
    void (*before)(void);
    long (*act)(void);
    long (*after)(long);
} acts[] = {%(rows)s};

static void* find(const char* name)
{
    void* const found = dlsym(RTLD_DEFAULT, name);
    return found != NULL ? found : (exit(3), NULL);
}

static void prepare(void)
{
    enter = (void (*)(void))find("rtcheck_enter");
    leave = (void (*)(void))find("rtcheck_leave");
    reset = (void (*)(void))find("rtcheck_reset");
    count = (long (*)(int))find("rtcheck_count");
    syscalls = (long (*)(int))find("rtcheck_syscalls");
    sections = (long (*)(void))find("rtcheck_sections");
    counts_syscalls = (int (*)(void))find("rtcheck_counts_syscalls");
    kind_name = (const char* (*)(int))find("rtcheck_name");
    first = (const char* (*)(void))find("rtcheck_first");
    void* const library = dlopen("libstdc++.so.6", RTLD_NOW);
    operator_new = (void* (*)(size_t))(library != NULL ? dlsym(library, "_Znwm") : find("malloc"));
    operator_delete = (void (*)(void*))(library != NULL ? dlsym(library, "_ZdlPv") : find("free"));
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sem_init(&semaphore, 0, 0);
    if (pipe(ends) != 0)
        exit(4);
}

static void print_counts(long result)
{
    printf("{\"result\": %%ld, \"sections\": %%ld, \"counts_syscalls\": %%d", result, sections(), counts_syscalls());
    printf(", \"kinds\": {\"\": 0");
    for (int i = 0; kind_name(i) != NULL; ++i)
        printf(", \"%%s\": %%ld", kind_name(i), count(i));
    printf("}, \"calls\": {\"\": 0");
    for (unsigned i = 0; i < sizeof known / sizeof *known; ++i)
        printf(", \"%%s\": %%ld", known[i].name, syscalls(known[i].number));
    printf("}}\n");
    fputs(first(), stderr);
    fflush(NULL);
    reset();
}

static void run(int i, int inside)
{
    memset(bytes, 0, sizeof bytes);
    acts[i].before();
    if (inside)
        enter();
    const long result = acts[i].act();
    if (inside)
        leave();
    print_counts(acts[i].after(result));
}

int main(int argument_count, char** arguments)
{
    prepare();
    for (unsigned i = 0; argument_count > 1 && i < sizeof acts / sizeof *acts; ++i)
        for (int inside = 0; inside < 2 && strcmp(acts[i].name, arguments[1]) == 0; ++inside)
            run((int)i, inside);
    return 0;
}
"""


def write_probe() -> str:
    """The probe's source: each act as three functions, and a table of them."""
    return PROBE % {
        "acts": "\n".join(write_act(name, act) for name, act in ACTS.items()),
        "rows": ",\n".join(
            f'{{"{name}", before_{c}, act_{c}, after_{c}}}' for name in ACTS for c in [identifier(name)]
        ),
        "known": ", ".join(f'{{"{name}", SYS_{name}}}' for name in KNOWN_CALLS),
    }


def write_act(name: str, act: Act) -> str:
    return (
        f"static void before_{identifier(name)}(void) {{ {act.before} }}\n"
        f"long act_{identifier(name)}(void) {{ long result = 0; {act.code} return result; }}\n"
        f"static long after_{identifier(name)}(long result) {{ {act.after} return result; }}\n"
    )


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


@dataclass
class Counts:
    """What the checker had counted when the probe asked."""

    result: int
    sections: int
    counts_syscalls: bool
    kinds: dict[str, int]
    calls: dict[str, int]

    def __post_init__(self) -> None:
        self.kinds = {name: count for name, count in self.kinds.items() if count}
        self.calls = {name: count for name, count in self.calls.items() if count}


PROBE_FLAGS = ("-fno-optimize-sibling-calls", "-rdynamic", "-Wl,-z,now", "-ldl", "-lpthread")


class Probe:
    """Performs acts, each in a process of its own with the checker preloaded."""

    def __init__(self, folder: Path) -> None:
        self._library = build_checker(folder)
        self._program = folder / "probe"
        source = folder / "probe.c"
        source.write_text(write_probe())
        compile_c(source, self._program, *PROBE_FLAGS)
        self.counts_syscalls = self.perform("arithmetic")[1].counts_syscalls

    def perform(self, name: str) -> tuple[Counts, Counts, str]:
        """What was counted without and with a section around the act, and where the first violation was."""
        done = subprocess.run(
            [str(self._program), name], env=preloaded(self._library), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        outside, inside = (Counts(**json.loads(line)) for line in done.stdout.splitlines())
        return outside, inside, done.stderr


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return Probe(tmp_path_factory.mktemp("rtcheck"))


@pytest.fixture(scope="module")
def kernel(probe):
    """Stands for the part of the checker that counts system calls."""
    if not probe.counts_syscalls:
        pytest.skip("this kernel or processor has no syscall user dispatch")


def without_kernel(kinds: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in kinds.items() if name != "system call"}


@pytest.mark.parametrize("name", [*COUNTED, *INTRICATE])
def test_outside_a_section_nothing_is_counted(probe, name):
    outside, _, _ = probe.perform(name)
    assert (outside.result, outside.kinds, outside.calls) == (ACTS[name].result, {}, {})


@pytest.mark.parametrize("name", HARMLESS)
def test_a_clean_section_counts_nothing(probe, name):
    _, inside, trace = probe.perform(name)
    assert (inside.sections, inside.result, inside.kinds, trace) == (1, ACTS[name].result, {}, "")


@pytest.mark.parametrize("name", [*ALLOCATIONS, *LOCKS])
def test_allocations_and_locks_are_counted_under_their_kinds(probe, name):
    _, inside, _ = probe.perform(name)
    expected = ACTS[name].kinds if probe.counts_syscalls else without_kernel(ACTS[name].kinds)
    assert (inside.sections, inside.result, inside.kinds) == (1, ACTS[name].result, expected)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("name", [*LOCKS, *SYSTEM_CALLS])
def test_system_calls_are_counted_exactly_and_do_their_work(probe, name):
    _, inside, _ = probe.perform(name)
    act = ACTS[name]
    assert (inside.sections, inside.result, inside.kinds, inside.calls) == (1, act.result, act.kinds, act.calls)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("name", INTRICATE)
def test_what_makes_threads_and_processes_is_counted_and_works(probe, name):
    _, inside, _ = probe.perform(name)
    assert inside.result == ACTS[name].result
    assert inside.kinds["system call"] > 0


@pytest.mark.usefixtures("kernel")
def test_every_thread_has_sections_of_its_own(probe):
    outside, inside, _ = probe.perform(SECTION_ELSEWHERE)
    assert (outside.sections, outside.calls) == (10, {"getpid": 10})
    assert (inside.sections, inside.calls) == (11, {"getpid": 10})


@pytest.mark.parametrize("name", ["malloc", "operator new", "mutex lock", "getpid", "malloc that maps"])
def test_the_trace_names_the_culprit(probe, name):
    if name in SYSTEM_CALLS and not probe.counts_syscalls:
        pytest.skip("this kernel or processor has no syscall user dispatch")
    _, _, trace = probe.perform(name)
    assert f"act_{identifier(name)}" in trace
    assert "librtcheck" not in trace
