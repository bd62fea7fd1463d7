/* eco2ai-plant: the sandbox's power plant. Test equipment: it shares no code with the product, and nothing else here is
 * simulated.
 *
 *   eco2ai-plant -l LAB -d DIR -c CPUS -s SOCKETS NODE...
 *
 * For every NODE it plays the power counters of a server below LAB/NODE/plant/sys/class/powercap, and what in procfs
 * would show the whole machine below LAB/NODE/plant/proc. They follow the real CPU time of the node's real jobs, read
 * from the kernel a thousand times a second: DIR, with % standing for the node, holds cgroup v1
 * uid_U/job_J/cpuacct.usage_percpu or cgroup v2 job_J/cpu.stat.
 *
 * The power law is deliberately not the accountant's: sockets differ, turbo makes a busy CPU dearer on an empty node, a
 * process called burn-heavy draws more for the same CPU time. The truth is logged to LAB/truth/NODE.log by log_truth().
 * Energies are integer microjoules, added to a zone and to one owner (idle, system, a job) together: so owners add up
 * to zones exactly.
 *
 * Readers never see a torn number: the digits that change lie in one aligned 8-byte word of a mapped file and are
 * stored at once, hence the padding. LAB/NODE/plant should be a tmpfs: no disk writes, no page faults. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_NODES = 16, MAX_SOCKETS = 8, MAX_CPUS = 1024, MAX_JOBS = 128, MAX_IDS = 4096, PATH = 512 };
enum { PACKAGE, DRAM, POOLS };
static const char *const POOL_NAME[POOLS] = {"package", "dram"};

/* --- the power law */
static const double IDLE_W[POOLS][2] = {{24.0, 19.0}, {3.0, 2.6}}; /* even and odd sockets */
static const double BUSY_W[POOLS] = {70.0, 8.0};                   /* on top, with all CPUs of a socket busy */
static const double HEAVY[POOLS] = {1.5, 2.2};                     /* instruction mix of burn-heavy */
static const double NOISE_CPUS = 0.02;                             /* the node's own system work */
static const double LOAD_TAU_S = 0.05;                             /* how fast turbo follows the load */
static double turbo(double load) { return 1.4 - 0.4 * (load < 1 ? load : 1); }
static double node_factor(int node) { return 1.0 + 0.03 * (node % 3 - 1); } /* two of a type are never quite alike */

/* Small enough to wrap in a day's run, and at 200 W and 50 W, which are published, unambiguous every 30 s. */
static const uint64_t RANGE_UJ[POOLS] = {8999999900, 7999999900}, LIMIT_UW[POOLS] = {200000000, 50000000};
static const uint64_t TO_WRAP_UJ[POOLS] = {1000000000, 300000000}; /* at the start, times 1, 2, 3.. by node, socket */
enum { QUANTUM_UJ = 100 };                                         /* the counters' grain; real ones have 15 to 61 uJ */

enum { STEP_NS = 1000000, JIFFY_NS = 10000000 };
/* Every so many steps: */
enum { SCAN = 4, PROC = 10, LOG = 10, LOG_QUIET = 100, MIX = 100, FLUSH = 1000, FIGURES = 10000 };
enum { AFTERGLOW = 2000 }; /* no job for so many steps: the node is quiet, its power constant */

struct zone {
    uint64_t energy_uj, idle_uj, began_uj;
    char *counter;
};

struct job {
    long id, sequence; /* 2 when the id comes back in a new directory: a requeue */
    char path[PATH];
    int fd; /* its CPU time, held open */
    bool heavy, seen, gone;
    uint64_t cpu_ns[MAX_CPUS], used_ns, dynamic_uj[POOLS];
};

struct node {
    const char *name;
    char cgroup[PATH];
    struct zone zone[POOLS][MAX_SOCKETS];
    struct job job[MAX_JOBS];
    int jobs;
    struct { long id, sequence; } known[MAX_IDS];
    int ids;
    uint64_t system_uj[POOLS], system_ns;
    uint64_t user_ns[MAX_CPUS], noise_ns[MAX_CPUS], idle_jiffies[MAX_CPUS];
    double load; /* smoothed; 1: all CPUs busy */
    char *stat, *uptime;
    FILE *truth;
    long quiet; /* steps since a job was there */
};

static struct node nodes[MAX_NODES];
static int node_count, cpus, sockets;
static const char *lab;
static uint64_t began_ns;
static volatile sig_atomic_t stop;

#define EACH_ZONE(pool, socket) \
    for (int pool = 0; pool < POOLS; pool++) \
        for (int socket = 0; socket < sockets; socket++)

static void fail(const char *what)
{
    fprintf(stderr, "error: eco2ai-plant: %s: %s\n", what, strerror(errno));
    exit(4);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int socket_of(int cpu)
{
    int socket = cpu / (cpus / sockets);
    return socket < sockets ? socket : sockets - 1;
}

/* --- files */

/* Makes a directory with its parents and goes there. */
__attribute__((format(printf, 1, 2))) static void enter(const char *format, ...)
{
    char path[PATH];
    va_list a;
    va_start(a, format);
    vsnprintf(path, sizeof path, format, a);
    va_end(a);
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0755);
            *p = '/';
        }
    if ((mkdir(path, 0755) && errno != EEXIST) || chdir(path)) fail(path);
}

__attribute__((format(printf, 2, 3))) static void write_file(const char *name, const char *format, ...)
{
    va_list a;
    FILE *f = fopen(name, "w");
    if (!f) fail(name);
    va_start(a, format);
    vfprintf(f, format, a);
    va_end(a);
    fclose(f);
}

/* The mapped content of a new file that begins as TEXT. */
static char *map_file(const char *name, mode_t mode, const char *text)
{
    size_t size = strlen(text);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, mode);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size) fail(name);
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) fail(name);
    close(fd);
    return at;
}

/* VALUE in 8 characters, right-aligned, stored as one word. */
static void put_word(char *word, uint64_t value, char pad)
{
    union { char text[8]; uint64_t bits; } u;
    for (int i = 7; i >= 0; i--, value /= 10) u.text[i] = value || i == 7 ? (char)('0' + value % 10) : pad;
    __atomic_store_n((uint64_t *)word, u.bits, __ATOMIC_RELEASE);
}

/* VALUE right-aligned in 16 characters; its last 8 digits, which are all that changes for days, are one word. */
static void put_number(char *field, uint64_t value)
{
    uint64_t high = value / 100000000;
    if (high) put_word(field, high, ' ');
    put_word(field + 8, value % 100000000, high ? '0' : ' ');
}

static void publish_counter(int pool, const struct zone *z)
{
    uint64_t quanta = (z->began_uj + z->energy_uj) % RANGE_UJ[pool] / QUANTUM_UJ;
    put_word(z->counter, quanta, ' '); /* what follows, "00\n", never changes */
}

/* Enters a powercap device as the kernel has it: nested below devices, with a flat link to it in class/powercap. */
static void enter_device(const struct node *n, const char *nested)
{
    const char *flat = strrchr(nested, '/') ? strrchr(nested, '/') + 1 : nested;
    char target[PATH];
    enter("%s/%s/plant/sys/class/powercap", lab, n->name);
    snprintf(target, sizeof target, "../../devices/virtual/powercap/%s", nested);
    if (symlink(target, flat) && errno != EEXIST) fail(flat);
    enter("%s/%s/plant/sys/devices/virtual/powercap/%s", lab, n->name, nested);
    write_file("enabled", "1\n");
}

static void make_zone(struct node *n, int pool, int socket)
{
    struct zone *z = &n->zone[pool][socket];
    char nested[64], name[32] = "dram";
    int length = snprintf(nested, sizeof nested, "intel-rapl/intel-rapl:%d", socket);
    if (pool == DRAM) snprintf(nested + length, sizeof nested - length, "/intel-rapl:%d:0", socket);
    else snprintf(name, sizeof name, "package-%d", socket);
    enter_device(n, nested);
    write_file("name", "%s\n", name);
    write_file("max_energy_range_uj", "%lu\n", RANGE_UJ[pool]);
    write_file("constraint_0_name", "long_term\n");
    write_file("constraint_0_max_power_uw", "%lu\n", LIMIT_UW[pool]);
    write_file("constraint_0_power_limit_uw", "%lu\n", LIMIT_UW[pool]);
    write_file("constraint_0_time_window_us", "999424\n");
    z->began_uj = RANGE_UJ[pool] - TO_WRAP_UJ[pool] * (1 + (n - nodes + socket) % 6);
    z->counter = map_file("energy_uj", 0400, "       000\n");
    publish_counter(pool, z);
}

/* A line of stat: "cpu0    ", ten numbers of 16 characters, 7 blanks and the end: all numbers are aligned. */
enum { STAT_LINE = 176, STAT_NUMBERS = 10, USER = 0, SYSTEM = 2, IDLE = 3 };
static char *stat_number(struct node *n, int line, int i) { return n->stat + line * STAT_LINE + 8 + i * 16; }

static void make_proc(struct node *n)
{
    char text[(MAX_CPUS + 1) * STAT_LINE + 64], boot_id[64] = "", *p = text;
    enter("%s/%s/plant/proc/sys/kernel/random", lab, n->name);
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!f || !fgets(boot_id, sizeof boot_id, f)) fail("boot_id");
    fclose(f);
    write_file("boot_id", "%s", boot_id);

    enter("%s/%s/plant/proc", lab, n->name);
    write_file("meminfo", "MemTotal: 4096000 kB\nMemFree: 3500000 kB\nMemAvailable: 3700000 kB\nBuffers: 20000 kB\n"
                          "Cached: 180000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
    n->uptime = map_file("uptime", 0444, "            0.00            0.00\n");
    for (int line = 0; line <= cpus; line++) {
        p += line ? sprintf(p, "cpu%-5d", line - 1) : sprintf(p, "cpu     ");
        for (int i = 0; i < STAT_NUMBERS; i++) p += sprintf(p, "%16d", 0);
        p += sprintf(p, "%8s", "\n");
    }
    sprintf(p, "btime %lu\n", (unsigned long)(time(NULL) - now_ns(CLOCK_BOOTTIME) / 1000000000));
    n->stat = map_file("stat", 0444, text);
    if (!(f = fopen("cpuinfo", "w"))) fail("cpuinfo");
    for (int cpu = 0, cores = cpus / sockets; cpu < cpus; cpu++) {
        fprintf(f, "processor\t: %d\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n", cpu);
        fprintf(f, "model name\t: Simulated CPU (eco2ai-hpc sandbox)\nphysical id\t: %d\n", socket_of(cpu));
        fprintf(f, "siblings\t: %d\ncore id\t\t: %d\ncpu cores\t: %d\n\n", cores, cpu % cores, cores);
    }
    fclose(f);
}

static void make_log(struct node *n)
{
    char name[PATH];
    enter("%s/truth", lab);
    snprintf(name, sizeof name, "%s.log", n->name);
    if (!(n->truth = fopen(name, "w"))) fail(name);
    setvbuf(n->truth, NULL, _IOFBF, 1 << 18);
    fprintf(n->truth, "bt_ns");
    EACH_ZONE(pool, socket) fprintf(n->truth, " energy:%s-%d_uj", POOL_NAME[pool], socket);
    EACH_ZONE(pool, socket) fprintf(n->truth, " idle:%s-%d_uj", POOL_NAME[pool], socket);
    fprintf(n->truth, " system:package_uj system:dram_uj system_us jobs=id.sequence:package_uj:dram_uj:cpu_us\n");
}

static void make_node(struct node *n, const char *name, const char *cgroup)
{
    const char *mark = strchr(cgroup, '%');
    n->name = name;
    snprintf(n->cgroup, PATH, "%.*s%s%s", (int)(mark - cgroup), cgroup, name, mark + 1);
    enter_device(n, "intel-rapl");
    EACH_ZONE(pool, socket) make_zone(n, pool, socket);
    make_proc(n);
    make_log(n);
}

/* --- jobs */

/* One line a moment, all of it since the plant began and never wrapped: energy and idle energy of each zone, energy and
 * CPU time of the system work, dynamic energy and CPU time of each job. */
static void log_truth(struct node *n, uint64_t bt_ns)
{
    fprintf(n->truth, "%lu", bt_ns);
    EACH_ZONE(pool, socket) fprintf(n->truth, " %lu", n->zone[pool][socket].energy_uj);
    EACH_ZONE(pool, socket) fprintf(n->truth, " %lu", n->zone[pool][socket].idle_uj);
    fprintf(n->truth, " %lu %lu %lu", n->system_uj[PACKAGE], n->system_uj[DRAM], n->system_ns / 1000);
    int left = 0;
    for (int i = 0; i < n->jobs; i++) {
        const struct job *j = &n->job[i];
        fprintf(n->truth, " %ld.%ld:%lu", j->id, j->sequence, j->dynamic_uj[PACKAGE]);
        fprintf(n->truth, ":%lu:%lu", j->dynamic_uj[DRAM], j->used_ns / 1000);
        if (!j->gone && left++ != i) n->job[left - 1] = *j; /* this was a gone one's last line */
    }
    n->jobs = left;
    fputc('\n', n->truth);
}

static int open_below(const char *directory, const char *name)
{
    char path[PATH + 64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* Fills CPU_NS with the CPU time of a job; false: the job is gone. */
static bool read_use(const struct job *j, uint64_t *cpu_ns)
{
    char text[MAX_CPUS * 21], *p = text;
    ssize_t size = pread(j->fd, text, sizeof text - 1, 0);
    if (size <= 0) return false;
    text[size] = 0;
    bool v2 = !strncmp(text, "usage_usec ", 11); /* one sum: spread over the CPUs */
    uint64_t sum_ns = v2 ? strtoull(text + 11, NULL, 10) * 1000 : 0;
    for (int cpu = 0; cpu < cpus; cpu++) cpu_ns[cpu] = v2 ? sum_ns / cpus : strtoull(p, &p, 10);
    return true;
}

static long next_sequence(struct node *n, long id)
{
    for (int i = 0; i < n->ids; i++)
        if (n->known[i].id == id) return ++n->known[i].sequence;
    if (n->ids < MAX_IDS) n->known[n->ids].id = id, n->known[n->ids++].sequence = 1;
    return 1;
}

static void meet_job(struct node *n, long id, const char *path, uint64_t bt_ns, bool at_start)
{
    for (int i = 0; i < n->jobs; i++)
        if (n->job[i].id == id && !n->job[i].gone) {
            n->job[i].seen = true;
            return;
        }
    struct job new = {.id = id, .seen = true};
    snprintf(new.path, PATH, "%s", path);
    if (n->jobs == MAX_JOBS) return;
    if ((new.fd = open_below(path, "cpuacct.usage_percpu")) < 0 && (new.fd = open_below(path, "cpu.stat")) < 0) return;
    new.sequence = next_sequence(n, id);
    if (at_start) read_use(&new, new.cpu_ns); /* what it used before the plant began is not ours */
    log_truth(n, bt_ns);                      /* the last line may be old on a quiet node */
    n->job[n->jobs++] = new;
}

/* Finds the job directories below PATH, through the uid_* directories of v1. */
static void scan(struct node *n, const char *path, uint64_t bt_ns, bool at_start)
{
    char below[PATH], *end;
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));) {
        bool user = !strncmp(e->d_name, "uid_", 4);
        if (!user && strncmp(e->d_name, "job_", 4)) continue;
        long id = strtol(e->d_name + 4, &end, 10);
        if (*end || snprintf(below, sizeof below, "%s/%s", path, e->d_name) >= PATH) continue;
        if (user) scan(n, below, bt_ns, at_start);
        else meet_job(n, id, below, bt_ns, at_start);
    }
    closedir(dir);
}

static bool is_heavy(long pid)
{
    char name[64], comm[32] = "";
    snprintf(name, sizeof name, "/proc/%ld/comm", pid);
    FILE *f = fopen(name, "re");
    if (!f) return false;
    bool heavy = fgets(comm, sizeof comm, f) && !strcmp(comm, "burn-heavy\n");
    fclose(f);
    return heavy;
}

/* True when a process of this cgroup or one below it is called burn-heavy. */
static bool has_heavy(const char *path)
{
    char below[PATH];
    bool found = false;
    long pid;
    int fd = open_below(path, "cgroup.procs");
    FILE *procs = fd < 0 ? NULL : fdopen(fd, "r");
    while (procs && !found && fscanf(procs, "%ld", &pid) == 1) found = is_heavy(pid);
    if (procs) fclose(procs);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        if (e->d_type != DT_DIR || *e->d_name == '.') continue;
        found = snprintf(below, sizeof below, "%s/%s", path, e->d_name) < PATH && has_heavy(below);
    }
    if (dir) closedir(dir);
    return found;
}

/* --- one step */

/* Charges NS of CPU time on a socket: in each pool the owner's figure and the zone's grow by the same integer. */
static void charge(struct node *n, int socket, uint64_t ns, bool heavy, uint64_t owner_uj[POOLS])
{
    double socket_seconds = ns / 1e9 / cpus * sockets;
    for (int pool = 0; pool < POOLS; pool++) {
        double watts = BUSY_W[pool] * node_factor(n - nodes);
        if (pool == PACKAGE) watts *= turbo(n->load);
        if (heavy) watts *= HEAVY[pool];
        uint64_t uj = watts * socket_seconds * 1e6 + 0.5;
        n->zone[pool][socket].energy_uj += uj;
        owner_uj[pool] += uj;
    }
}

static void charge_idle(struct node *n, uint64_t dt_ns)
{
    EACH_ZONE(pool, socket) {
        uint64_t uj = IDLE_W[pool][socket % 2] * node_factor(n - nodes) * dt_ns / 1e3 + 0.5;
        n->zone[pool][socket].energy_uj += uj;
        n->zone[pool][socket].idle_uj += uj;
    }
}

/* Both return the CPU time charged, in ns. */
static uint64_t charge_system(struct node *n, long step, uint64_t dt_ns)
{
    int cpu = step / 100 % cpus; /* it wanders over the CPUs */
    uint64_t ns = NOISE_CPUS * dt_ns;
    n->noise_ns[cpu] += ns;
    n->system_ns += ns;
    charge(n, socket_of(cpu), ns, false, n->system_uj);
    return ns;
}

static uint64_t charge_job(struct node *n, struct job *j)
{
    uint64_t use[MAX_CPUS], sum_ns = 0;
    if (!j->seen || !read_use(j, use)) {
        j->gone = true;
        close(j->fd);
        return 0;
    }
    for (int cpu = 0; cpu < cpus; cpu++) {
        if (use[cpu] <= j->cpu_ns[cpu]) continue;
        uint64_t ns = use[cpu] - j->cpu_ns[cpu];
        j->cpu_ns[cpu] = use[cpu];
        j->used_ns += ns;
        n->user_ns[cpu] += ns;
        sum_ns += ns;
        charge(n, socket_of(cpu), ns, j->heavy, j->dynamic_uj);
    }
    return sum_ns;
}

static void step_node(struct node *n, long step, uint64_t bt_ns, uint64_t dt_ns)
{
    charge_idle(n, dt_ns);
    if (step % SCAN == 0) {
        for (int i = 0; i < n->jobs; i++) n->job[i].seen = false;
        scan(n, n->cgroup, bt_ns, step == 0);
    }
    uint64_t busy_ns = charge_system(n, step, dt_ns);
    for (int i = 0; i < n->jobs; i++) {
        struct job *j = &n->job[i];
        if (j->gone) continue;
        if (step % MIX == 0) j->heavy = has_heavy(j->path);
        busy_ns += charge_job(n, j);
    }
    /* CPU time comes in lumps of a scheduler tick. */
    if (dt_ns) n->load += dt_ns / (LOAD_TAU_S * 1e9 + dt_ns) * ((double)busy_ns / dt_ns / cpus - n->load);

    EACH_ZONE(pool, socket) publish_counter(pool, &n->zone[pool][socket]);
    n->quiet = n->jobs ? 0 : n->quiet + 1;
    if (step % (n->quiet < AFTERGLOW ? LOG : LOG_QUIET) == 0) log_truth(n, bt_ns);
    if (step % FLUSH == (n - nodes) * 50) fflush(n->truth);
}

static void publish_proc(struct node *n, uint64_t bt_ns)
{
    uint64_t sum[STAT_NUMBERS] = {0}, elapsed = (bt_ns - began_ns) / JIFFY_NS;
    for (int cpu = 0; cpu < cpus; cpu++) {
        uint64_t user = n->user_ns[cpu] / JIFFY_NS, system = n->noise_ns[cpu] / JIFFY_NS, *idle = &n->idle_jiffies[cpu];
        if (elapsed > user + system + *idle) *idle = elapsed - user - system; /* never backwards */
        put_number(stat_number(n, cpu + 1, USER), user);
        put_number(stat_number(n, cpu + 1, SYSTEM), system);
        put_number(stat_number(n, cpu + 1, IDLE), *idle);
        sum[USER] += user, sum[SYSTEM] += system, sum[IDLE] += *idle;
    }
    for (int i = USER; i <= IDLE; i++) put_number(stat_number(n, 0, i), sum[i]);

    union { char text[40]; uint64_t word[4]; } uptime;
    snprintf(uptime.text, sizeof uptime.text, "%16.2f%16.2f", bt_ns / 1e9, sum[IDLE] / 100.0);
    for (int i = 0; i < 4; i++) __atomic_store_n((uint64_t *)n->uptime + i, uptime.word[i], __ATOMIC_RELEASE);
}

/* --- what the plant costs, and how punctual it is */

enum { BIN_NS = 10000, BINS = 10000 };
static uint64_t interval_bin[BINS], intervals, longest_ns;

static void note_interval(uint64_t dt_ns)
{
    intervals++;
    interval_bin[dt_ns / BIN_NS < BINS ? dt_ns / BIN_NS : BINS - 1]++;
    if (dt_ns > longest_ns) longest_ns = dt_ns;
}

static double quantile_us(double q)
{
    uint64_t count = 0;
    int bin = 0;
    while (bin < BINS && (count += interval_bin[bin]) <= q * intervals) bin++;
    return (bin + 1) * BIN_NS / 1e3;
}

static void write_figures(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    double cpu = r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
    double wall = (now_ns(CLOCK_BOOTTIME) - began_ns) / 1e9;
    enter("%s/truth", lab);
    write_file(".plant.json",
               "{\"wall_seconds\": %.1f, \"cpu_seconds\": %.2f, \"cpu_share\": %.4f, \"updates\": %lu,"
               " \"interval_p50_us\": %.0f, \"interval_p99_us\": %.0f, \"interval_max_us\": %.0f}\n",
               wall, cpu, cpu / wall, intervals, quantile_us(0.5), quantile_us(0.99), longest_ns / 1e3);
    rename(".plant.json", "plant.json");
}

/* --- the loop */

static void run(void)
{
    uint64_t before_ns = began_ns, next_ns = now_ns(CLOCK_MONOTONIC);
    for (long step = 0; !stop; step++) {
        uint64_t bt_ns = now_ns(CLOCK_BOOTTIME), dt_ns = bt_ns - before_ns;
        before_ns = bt_ns;
        if (step) note_interval(dt_ns);
        for (int i = 0; i < node_count; i++) {
            step_node(&nodes[i], step, bt_ns, dt_ns);
            if (step % PROC == i % PROC) publish_proc(&nodes[i], bt_ns);
        }
        if (step % FIGURES == FIGURES / 2) write_figures();
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        next_ns += STEP_NS;
        if (next_ns + STEP_NS < now) next_ns = now; /* late: go on from here, no burst */
        struct timespec until = {next_ns / 1000000000, next_ns % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
}

static void on_signal(int signal)
{
    (void)signal;
    stop = 1;
}

int main(int argc, char **argv)
{
    const char *cgroup = "";
    for (int option; (option = getopt(argc, argv, "l:d:c:s:")) > 0;) switch (option) {
        case 'l': lab = optarg; break;
        case 'd': cgroup = optarg; break;
        case 'c': cpus = atoi(optarg); break;
        case 's': sockets = atoi(optarg); break;
        default: return 2;
    }
    node_count = argc - optind;
    bool fits = sockets >= 1 && sockets <= MAX_SOCKETS && cpus >= sockets && cpus <= MAX_CPUS;
    if (!fits || !lab || !strchr(cgroup, '%') || node_count < 1 || node_count > MAX_NODES) {
        fprintf(stderr, "error: usage: eco2ai-plant -l LAB -d CGROUP_DIR_WITH_%% -c CPUS -s SOCKETS NODE...\n");
        return 2;
    }
    struct sigaction quit = {.sa_handler = on_signal};
    sigaction(SIGTERM, &quit, NULL);
    sigaction(SIGINT, &quit, NULL);
    began_ns = now_ns(CLOCK_BOOTTIME);
    for (int i = 0; i < node_count; i++) make_node(&nodes[i], argv[optind + i], cgroup);

    /* The jobs keep every CPU busy, and only a real-time process ticks through that. Without the right to be one, at
     * least first among equals. */
    struct sched_param first = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &first)) setpriority(PRIO_PROCESS, 0, -20);
    mlockall(MCL_CURRENT | MCL_FUTURE);
    run();
    for (int i = 0; i < node_count; i++) {
        log_truth(&nodes[i], now_ns(CLOCK_BOOTTIME));
        fclose(nodes[i].truth);
    }
    write_figures();
    return 0;
}
