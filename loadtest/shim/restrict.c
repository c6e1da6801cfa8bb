/* restrict: starts a program on a poorer machine. See README.md beside this file.
 *
 *   restrict [--no-io-uring] [--memlock BYTES] [--cpus N] [--obey-modes] -- program arguments...
 *
 * Everything is inherited by the program's children and cannot be undone by them. The process keeps its id: the
 * program replaces this one. Works as any user; ends with 125 and a sentence when the machine does not allow it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "restrict: %s: %s\n", what, strerror(errno));
    exit(125);
}
static void usage(void) {
    fputs("usage: restrict [--no-io-uring] [--memlock BYTES] [--cpus N] [--obey-modes] -- program arguments...\n",
          stderr);
    exit(125);
}
static unsigned long number(const char *text) {
    char *end;
    errno = 0;
    unsigned long value = text ? strtoul(text, &end, 10) : 0;
    if (!text || *end || end == text || errno) usage();
    return value;
}

/* The three calls of io_uring, numbered alike on every architecture since Linux 5.1, answer EPERM: what the default
 * profile of container runtimes does. */
static void no_io_uring(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 425, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 427, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) die("PR_SET_NO_NEW_PRIVS");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)) die("PR_SET_SECCOMP");
}

/* Takes a capability away for good. Whoever is not root has none to lose. */
static void drop(int capability) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &head, sets)) die("capget");
    unsigned bit = CAP_TO_MASK(capability), word = CAP_TO_INDEX(capability);
    if (!((sets[word].permitted | sets[word].inheritable) & bit)) return;
    /* The bounding set first: root gets what is in it back at the exec. */
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)) die("PR_CAPBSET_DROP");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, capability, 0, 0);
    sets[word].effective &= ~bit;
    sets[word].permitted &= ~bit;
    sets[word].inheritable &= ~bit;
    if (syscall(SYS_capset, &head, sets)) die("capset");
}

/* The first `n` of the processors this process may use. */
static void only_cpus(unsigned long n) {
    cpu_set_t allowed, taken;
    CPU_ZERO(&taken);
    if (!n) usage();
    if (sched_getaffinity(0, sizeof allowed, &allowed)) die("sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE && n; cpu++)
        if (CPU_ISSET(cpu, &allowed)) {
            CPU_SET(cpu, &taken);
            n--;
        }
    if (sched_setaffinity(0, sizeof taken, &taken)) die("sched_setaffinity");
}

int main(int argc, char **argv) {
    int at = 1, block = 0;
    for (; at < argc && strcmp(argv[at], "--"); at++) {
        if (!strcmp(argv[at], "--no-io-uring")) {
            block = 1;
        } else if (!strcmp(argv[at], "--memlock")) {
            struct rlimit limit;
            limit.rlim_cur = limit.rlim_max = number(argv[++at]);
            if (setrlimit(RLIMIT_MEMLOCK, &limit)) die("RLIMIT_MEMLOCK");
            drop(CAP_IPC_LOCK); /* a limit does not bind who has it */
        } else if (!strcmp(argv[at], "--cpus")) {
            only_cpus(number(argv[++at]));
        } else if (!strcmp(argv[at], "--obey-modes")) {
            drop(CAP_DAC_OVERRIDE); /* root, too, may write only what the file modes allow */
        } else {
            usage();
        }
    }
    if (at + 1 >= argc) usage();
    if (block) no_io_uring();
    execvp(argv[at + 1], argv + at + 1);
    die(argv[at + 1]);
}
