/* eco2ai-writer: energy counters of known power. Test equipment: it shares no code with the product.
 *
 *   eco2ai-writer LOG RANGE_UJ FILE=START_UJ:WATTS*MS,WATTS*MS... ...
 *
 * Each FILE becomes a counter that starts at START_UJ, restarts after RANGE_UJ and follows a power that goes through its
 * stages again and again. What it counted is the exact integral of that power, taken four thousand times a second.
 *
 * LOG has one record a step: CLOCK_BOOTTIME in ns, then of each counter the microjoules since the writer began, never
 * wrapped; native 64-bit words. The moment it began goes to stdout once all counters are there; SIGTERM ends it.
 *
 * Readers never see a torn number: the digits that change lie in one aligned 8-byte word of a mapped file and are stored
 * at once. That leaves eight digits, hence the grain. FILE should lie in a tmpfs: no disk writes, no page faults. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ZONES = 64, MAX_STAGES = 32 };
enum { STEP_NS = 250000, QUANTUM_UJ = 1000 };

struct zone {
    uint64_t start_uj, cycle_ns, cycle_wns; /* 1 W for 1 ns is 1 nJ */
    struct { uint64_t watts, ns; } stage[MAX_STAGES];
    int stages;
    char *counter;
};

static struct zone zones[MAX_ZONES];
static volatile sig_atomic_t stop;

static void fail(const char *what)
{
    fprintf(stderr, "error: eco2ai-writer: %s: %s\n", what, errno ? strerror(errno) : "not understood");
    exit(4);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t energy_uj(const struct zone *z, uint64_t elapsed_ns)
{
    uint64_t wns = elapsed_ns / z->cycle_ns * z->cycle_wns, left_ns = elapsed_ns % z->cycle_ns;
    for (int i = 0; left_ns; i++) {
        uint64_t ns = left_ns < z->stage[i].ns ? left_ns : z->stage[i].ns;
        wns += z->stage[i].watts * ns;
        left_ns -= ns;
    }
    return wns / 1000;
}

static void publish(const struct zone *z, uint64_t counted_uj, uint64_t range_uj)
{
    union { char text[8]; uint64_t bits; } u;
    uint64_t quanta = (z->start_uj + counted_uj) % range_uj / QUANTUM_UJ;
    for (int i = 7; i >= 0; i--, quanta /= 10) u.text[i] = quanta || i == 7 ? (char)('0' + quanta % 10) : ' ';
    __atomic_store_n((uint64_t *)z->counter, u.bits, __ATOMIC_RELEASE); /* what follows, "000\n", never changes */
}

static void make_zone(struct zone *z, char *words)
{
    static const char text[] = "       0000\n";
    char *file = strtok(words, "="), *start = strtok(NULL, ":");
    if (!file || !start) fail("zone");
    z->start_uj = strtoull(start, NULL, 10);
    for (char *stage; (stage = strtok(NULL, ",")); z->stages++) {
        unsigned long watts, ms;
        if (z->stages == MAX_STAGES || sscanf(stage, "%lu*%lu", &watts, &ms) != 2) fail(stage);
        z->stage[z->stages].watts = watts;
        z->stage[z->stages].ns = ms * 1000000;
        z->cycle_ns += ms * 1000000;
        z->cycle_wns += watts * ms * 1000000;
    }
    if (!z->cycle_ns) fail(file);
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, sizeof text - 1) != sizeof text - 1) fail(file);
    z->counter = mmap(NULL, sizeof text - 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (z->counter == MAP_FAILED) fail(file);
    close(fd);
}

static void on_signal(int signal)
{
    (void)signal;
    stop = 1;
}

int main(int argc, char **argv)
{
    int count = argc - 3;
    if (count < 1 || count > MAX_ZONES) {
        fprintf(stderr, "error: usage: eco2ai-writer LOG RANGE_UJ FILE=START_UJ:WATTS*MS,... ...\n");
        return 2;
    }
    struct sigaction quit = {.sa_handler = on_signal};
    sigaction(SIGTERM, &quit, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* it must not outlive the test that started it */
    FILE *log = fopen(argv[1], "w");
    if (!log) fail(argv[1]);
    setvbuf(log, NULL, _IOFBF, 1 << 16);
    uint64_t range_uj = strtoull(argv[2], NULL, 10);
    if (!range_uj || range_uj / QUANTUM_UJ > 99999999) fail(argv[2]);
    for (int i = 0; i < count; i++) make_zone(&zones[i], argv[i + 3]);

    /* Only a real-time process ticks through a machine whose CPUs are all busy. Without the right to be one, at least
     * first among equals. */
    struct sched_param first = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &first)) setpriority(PRIO_PROCESS, 0, -20);
    mlockall(MCL_CURRENT | MCL_FUTURE);

    uint64_t began_ns = now_ns(CLOCK_BOOTTIME), next_ns = now_ns(CLOCK_MONOTONIC);
    for (long step = 0; !stop; step++) {
        uint64_t record[1 + MAX_ZONES] = {now_ns(CLOCK_BOOTTIME)};
        for (int i = 0; i < count; i++) {
            record[i + 1] = energy_uj(&zones[i], record[0] - began_ns);
            publish(&zones[i], record[i + 1], range_uj);
        }
        if (fwrite(record, sizeof *record, 1 + count, log) != 1u + count) fail("log");
        if (!step) printf("%lu\n", began_ns), fflush(stdout);
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        next_ns += STEP_NS;
        if (next_ns + STEP_NS < now) next_ns = now; /* late: go on from here, no burst */
        struct timespec until = {next_ns / 1000000000, next_ns % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    return fclose(log) ? 4 : 0;
}
