/* A stand-in for libnvidia-ml.so.1 on machines without a GPU; unmodified nvidia-ml-py (module pynvml) loads it.
 *
 *   gcc -shared -fPIC -O2 -Wall -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 fake_nvml.c
 *   -DOLD_DRIVER leaves out what drivers before Volta and MIG lack.
 *
 * Environment, read at each call:
 *   FAKE_NVML_GPUS=N            number of GPUs, at most 16; else 1 + the highest in the file, else 2
 *   FAKE_NVML_WATTS=300,75.5    watts of GPU 0, 1, ...; a GPU without an entry draws 300 + 100 * index
 *   FAKE_NVML_NO_ENERGY=1       no GPU has an energy counter (NOT_SUPPORTED)
 *   FAKE_NVML_INIT_ERROR=9      nvmlInit fails with that code
 *   FAKE_NVML_FILE=PATH         a text file that a test may rewrite (rename a new one over it) while readers run; it overrides
 *                               the variables above. '#' begins a comment; one line per GPU, INDEX KEY=VALUE ...:
 *     library init_error=9            nvmlInit fails with that code (9 = driver not loaded)
 *     library init_ms=5000            nvmlInit comes back after so long
 *     library forgets=1               each new number makes the library forget once that it was initialised
 *     0 watts=250 pids=4711,4712      processes on the GPU, each with 1 GiB
 *     1 watts=60.5 mig=3              MIG mode on, 3 instances; their energy is NOT_SUPPORTED, the parent's works
 *     2 energy_mj=5000                the counter stands at exactly this value (deterministic tests)
 *     3 watts=90 reset=2              each new number (or none) restarts the counter at 0 (driver reload, GPU reset)
 *     4 no_energy=1 no_power=1        this GPU alone has no energy counter; no power either
 *     5 error=15                      every query of this GPU fails with that code (15 = GPU is lost)
 *     6 step_ms=100                   the counter advances in steps, as a real one does
 *     7 hang_ms=5000                  every query of this GPU comes back after so long
 *     8 minor=3 limit_w=700           N of its /dev/nvidiaN; its highest power limit (the enforced one is 700 W)
 *
 * Without FAKE_NVML_FILE the counter is CLOCK_BOOTTIME x watts: all processes see the same one, and it goes on over a restart
 * of the reader. With it, energy is integrated in PATH.state, which all readers share: a new wattage counts from the file's
 * modification time on (so write it twice between two readings, and only the last counts). Remove PATH.state to start at 0.
 * A GPU that was seen lost (15, 16) answers new handles only. Nothing else is a model of a GPU: utilisation, memory and names
 * are constants. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15, RESET_REQUIRED = 16, UNKNOWN = 999 };
enum { MAX_GPUS = 16, MAX_PIDS = 32, MAX_MIG = 7 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef void *dev;               /* 1 + gpu, plus 256 * (1 + instance) for a MIG device, plus 65536 * times it was lost */

struct gpu {
	double watts;
	u64 energy_mj;
	int pinned, mig, no_energy, no_power, error, reset, step_ms, hang_ms, minor, limit_w, npids;
	u32 pids[MAX_PIDS];
};
struct library { int init_error, init_ms, forgets, gpus; };
struct state { u64 at_ns, uj, step, shown_uj; double watts; int reset, known; };        /* one record a GPU in PATH.state */

__attribute__((unused)) static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int initialized, forgotten;
static int is_lost[MAX_GPUS], times_lost[MAX_GPUS];

static u64 clock_ns(clockid_t id) { struct timespec t; clock_gettime(id, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static u64 stat_ns(const struct stat *s) { return s->st_mtim.tv_sec * 1000000000ull + s->st_mtim.tv_nsec; }
static void pause_ms(int ms) { if (ms) usleep(1000u * (u32) ms); }
static u32 instance_of(dev d) { return (u32) ((size_t) d / 256 % 256 - 1); }
static int is_mig(dev d) { return (size_t) d / 256 % 256 > 0; }
static u32 gpu_of(dev d) { return (u32) ((size_t) d % 256 - 1); }
static int epoch_of(dev d) { return (int) ((size_t) d / 65536); }
static dev handle_of(u32 i, u32 mig) { return (dev) ((size_t) i + 1 + 256 * (size_t) mig + 65536 * (size_t) times_lost[i]); }

/* What the file says of the library itself, and how many GPUs there are. */
static struct library library(void)
{
	const char *path = getenv("FAKE_NVML_FILE"), *gpus = getenv("FAKE_NVML_GPUS"), *error = getenv("FAKE_NVML_INIT_ERROR");
	FILE *f = path ? fopen(path, "r") : NULL;
	struct library l = {.init_error = error ? atoi(error) : 0, .gpus = f ? 0 : 2};
	char line[1024], *word, *save, *v;
	while (f && fgets(line, sizeof line, f)) {
		line[strcspn(line, "#\n")] = 0;
		if (!(word = strtok_r(line, " \t", &save))) continue;
		if (strcmp(word, "library")) { if (atoi(word) >= l.gpus) l.gpus = atoi(word) + 1; continue; }
		while ((word = strtok_r(NULL, " \t", &save))) {
			if (!(v = strchr(word, '='))) continue;
			*v++ = 0;
			if (!strcmp(word, "init_error")) l.init_error = atoi(v);
			else if (!strcmp(word, "init_ms")) l.init_ms = atoi(v);
			else if (!strcmp(word, "forgets")) l.forgets = atoi(v);
		}
	}
	if (f) fclose(f);
	if (gpus) l.gpus = atoi(gpus);
	if (l.gpus > MAX_GPUS) l.gpus = MAX_GPUS;
	return l;
}
static u32 count(void) { return (u32) library().gpus; }

static void from_environment(u32 i, struct gpu *g)
{
	const char *w = getenv("FAKE_NVML_WATTS");
	memset(g, 0, sizeof *g);
	for (u32 k = 0; w && k < i; k++) { w = strchr(w, ','); if (w) w++; }
	g->watts = w && *w ? atof(w) : 300 + 100.0 * i;
	g->no_energy = getenv("FAKE_NVML_NO_ENERGY") != NULL;
	g->minor = (int) i;
	g->limit_w = 700;
}

/* Reads GPU i's line; returns the file's modification time, 0 without a file. */
static u64 from_file(u32 i, struct gpu *g)
{
	const char *path = getenv("FAKE_NVML_FILE");
	FILE *f = path ? fopen(path, "r") : NULL;
	char line[1024], *save, *word, *v;
	struct stat s;
	if (!f) return 0;
	while (fgets(line, sizeof line, f)) {
		line[strcspn(line, "#\n")] = 0;
		if (!(word = strtok_r(line, " \t", &save)) || !strcmp(word, "library") || (u32) atoi(word) != i) continue;
		while ((word = strtok_r(NULL, " \t", &save))) {
			if (!(v = strchr(word, '='))) continue;
			*v++ = 0;
			if (!strcmp(word, "watts")) g->watts = atof(v);
			else if (!strcmp(word, "energy_mj")) { g->energy_mj = strtoull(v, NULL, 10); g->pinned = 1; }
			else if (!strcmp(word, "mig")) g->mig = atoi(v) > MAX_MIG ? MAX_MIG : atoi(v);
			else if (!strcmp(word, "no_energy")) g->no_energy = atoi(v);
			else if (!strcmp(word, "no_power")) g->no_power = atoi(v);
			else if (!strcmp(word, "hang_ms")) g->hang_ms = atoi(v);
			else if (!strcmp(word, "minor")) g->minor = atoi(v);
			else if (!strcmp(word, "limit_w")) g->limit_w = atoi(v);
			else if (!strcmp(word, "error")) g->error = atoi(v);
			else if (!strcmp(word, "reset")) g->reset = atoi(v);
			else if (!strcmp(word, "step_ms")) g->step_ms = atoi(v);
			else if (!strcmp(word, "pids"))
				for (char *p = v; p && *p && g->npids < MAX_PIDS; p = strchr(p, ','), p = p ? p + 1 : p)
					g->pids[g->npids++] = (u32) atoi(p);
		}
	}
	fstat(fileno(f), &s);
	fclose(f);
	return stat_ns(&s);
}

/* Every query starts here: which GPU is meant, and does it answer? */
static int look_up(dev d, struct gpu *g, u64 *changed_ns)
{
	struct library l = library();
	u64 t;
	if (l.forgets > forgotten) { forgotten = l.forgets; initialized = 0; }
	if (!initialized) return UNINITIALIZED;
	if (!d || gpu_of(d) >= (u32) l.gpus) return INVALID;
	from_environment(gpu_of(d), g);
	t = from_file(gpu_of(d), g);
	if (changed_ns) *changed_ns = t;
	pause_ms(g->hang_ms);
	if (g->error == LOST || g->error == RESET_REQUIRED) {
		if (!is_lost[gpu_of(d)]++) times_lost[gpu_of(d)]++;
		return g->error;
	}
	is_lost[gpu_of(d)] = 0;
	if (epoch_of(d) != times_lost[gpu_of(d)]) return LOST;
	if (is_mig(d) && instance_of(d) >= (u32) g->mig) return INVALID;
	return g->error;
}

__attribute__((unused)) static u64 energy_uj(u32 i, const struct gpu *g, u64 changed_ns)
{
	struct state s = {0};
	char path[4096];
	u64 now = clock_ns(changed_ns ? CLOCK_REALTIME : CLOCK_BOOTTIME), step;
	int fd;
	if (g->pinned) return g->energy_mj * 1000;
	if (!changed_ns) return (u64) (now / 1000.0 * g->watts);                /* ns x W / 1000 = uJ */
	snprintf(path, sizeof path, "%s.state", getenv("FAKE_NVML_FILE"));
	if ((fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) < 0) return 0;
	flock(fd, LOCK_EX);
	if (pread(fd, &s, sizeof s, i * sizeof s) != sizeof s || !s.known)
		s = (struct state) {.at_ns = changed_ns, .watts = g->watts, .reset = g->reset, .known = 1};
	if (changed_ns > s.at_ns && changed_ns <= now) {                        /* the old wattage, up to the change */
		s.uj += (u64) ((changed_ns - s.at_ns) / 1000.0 * s.watts);
		s.at_ns = changed_ns;
	}
	if (s.reset != g->reset) s.uj = s.step = 0;
	s.reset = g->reset;
	s.watts = g->watts;
	if (now > s.at_ns) { s.uj += (u64) ((now - s.at_ns) / 1000.0 * s.watts); s.at_ns = now; }
	step = g->step_ms ? now / (g->step_ms * 1000000ull) : now;
	if (step != s.step) { s.step = step; s.shown_uj = s.uj; }               /* else what it showed before, in this step */
	if (pwrite(fd, &s, sizeof s, i * sizeof s) < 0) s.shown_uj = 0;
	close(fd);
	return s.shown_uj;
}

#define QUERY(d) struct gpu g; int r = look_up(d, &g, NULL); if (r) return r
#define NOT_FOR_MIG(d) if (is_mig(d)) return NOT_SUPPORTED

/* --- the library and the system */
int nvmlInitWithFlags(u32 flags)
{
	struct library l = library();
	(void) flags;
	pause_ms(l.init_ms);
	if (l.init_error) return l.init_error;
	initialized = 1;
	return SUCCESS;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { initialized = 0; return SUCCESS; }
const char *nvmlErrorString(int r) { return r == SUCCESS ? "Success" : r == NOT_SUPPORTED ? "Not Supported" : r == UNINITIALIZED ? "Uninitialized" : r == 15 ? "GPU is lost" : "Fake NVML error"; }
int nvmlSystemGetDriverVersion(char *b, u32 n) { if (!initialized) return UNINITIALIZED; snprintf(b, n, "999.00"); return SUCCESS; }
int nvmlSystemGetNVMLVersion(char *b, u32 n) { if (!initialized) return UNINITIALIZED; snprintf(b, n, "13.999.00"); return SUCCESS; }
int nvmlDeviceGetCount_v2(u32 *n) { if (!initialized) return UNINITIALIZED; *n = count(); return SUCCESS; }

/* --- which device */
int nvmlDeviceGetHandleByIndex_v2(u32 i, dev *d)
{
	struct gpu g;
	if (i >= count()) return INVALID;
	*d = handle_of(i, 0);
	return look_up(*d, &g, NULL);
}
static void name_of(dev d, char *b, u32 n)
{
	if (is_mig(d)) snprintf(b, n, "MIG-00000000-0000-0000-%04u-%012u", instance_of(d), gpu_of(d));
	else snprintf(b, n, "GPU-00000000-0000-0000-0000-%012u", gpu_of(d));
}
int nvmlDeviceGetUUID(dev d, char *b, u32 n) { QUERY(d); name_of(d, b, n); return SUCCESS; }
int nvmlDeviceGetHandleByUUID(const char *uuid, dev *d)
{
	struct gpu g;
	char b[96];
	if (!initialized) return UNINITIALIZED;
	for (u32 i = 0; i < count(); i++) {
		int r = look_up(handle_of(i, 0), &g, NULL);
		if (r == LOST) return r;                                        /* as documented: any lost GPU ends the search */
		for (u32 m = 0; m <= (u32) g.mig; m++) {
			*d = handle_of(i, m);
			name_of(*d, b, sizeof b);
			if (!strcmp(b, uuid)) return look_up(*d, &g, NULL);
		}
	}
	return NOT_FOUND;
}
static void bus_of(u32 i, char *b, u32 n) { snprintf(b, n, "00000000:%02X:00.0", 0x10 + i); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, dev *d)
{
	struct gpu g;
	char b[32];
	if (!initialized) return UNINITIALIZED;
	for (u32 i = 0; i < count(); i++) {
		*d = handle_of(i, 0);
		bus_of(i, b, sizeof b);
		if (!strcmp(b, id)) return look_up(*d, &g, NULL);
	}
	return NOT_FOUND;
}
int nvmlDeviceGetIndex(dev d, u32 *i) { QUERY(d); *i = gpu_of(d); return SUCCESS; }
int nvmlDeviceGetMinorNumber(dev d, u32 *i) { QUERY(d); *i = (u32) g.minor; return SUCCESS; }
int nvmlDeviceGetName(dev d, char *b, u32 n) { QUERY(d); snprintf(b, n, is_mig(d) ? "Fake H100 MIG 1g.10gb" : "Fake H100"); return SUCCESS; }
struct pci { char legacy[16]; u32 domain, bus, device, device_id, subsystem_id; char id[32]; };
int nvmlDeviceGetPciInfo_v3(dev d, struct pci *p)
{
	QUERY(d);
	*p = (struct pci) {.bus = 0x10 + gpu_of(d), .device_id = 0x233010de, .subsystem_id = 0x16c110de};
	snprintf(p->legacy, sizeof p->legacy, "0000:%02X:00.0", p->bus);
	bus_of(gpu_of(d), p->id, sizeof p->id);
	return SUCCESS;
}

/* --- energy and power */
#ifndef OLD_DRIVER
int nvmlDeviceGetTotalEnergyConsumption(dev d, u64 *mj)
{
	struct gpu g; u64 changed; int r = look_up(d, &g, &changed);
	if (r) return r;
	if (is_mig(d) || g.no_energy) return NOT_SUPPORTED;
	pthread_mutex_lock(&mutex);
	*mj = energy_uj(gpu_of(d), &g, changed) / 1000;
	pthread_mutex_unlock(&mutex);
	return SUCCESS;
}
#endif
int nvmlDeviceGetPowerUsage(dev d, u32 *mw)
{
	QUERY(d);
	NOT_FOR_MIG(d);
	if (g.no_power) return NOT_SUPPORTED;
	*mw = (u32) (g.watts * 1000);
	return SUCCESS;
}
int nvmlDeviceGetPowerManagementLimitConstraints(dev d, u32 *least_mw, u32 *most_mw)
{
	QUERY(d);
	NOT_FOR_MIG(d);
	*least_mw = 200000;
	*most_mw = (u32) g.limit_w * 1000;
	return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(dev d, u32 *mw) { QUERY(d); NOT_FOR_MIG(d); *mw = 700000; return SUCCESS; }
int nvmlDeviceGetPowerManagementLimit(dev d, u32 *mw) { QUERY(d); NOT_FOR_MIG(d); *mw = 700000; return SUCCESS; }

/* --- who uses it */
struct process { u32 pid; u64 memory; u32 gpu_instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(dev d, u32 *n, struct process *p)
{
	u32 room = *n, used = 0;
	QUERY(d);
	for (int k = 0; k < g.npids; k++) {             /* with MIG on, process k runs in instance k modulo their number */
		u32 gi = g.mig ? (u32) (k % g.mig) : 0xffffffffu;
		if (is_mig(d) && gi != instance_of(d)) continue;
		if (used < room && p) p[used] = (struct process) {g.pids[k], 1ull << 30, gi, g.mig ? 0 : 0xffffffffu};
		used++;
	}
	*n = used;
	return used > room || (used && !p) ? TOO_SMALL : SUCCESS;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(dev d, u32 *n, struct process *p) { QUERY(d); (void) p; *n = 0; return SUCCESS; }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(dev d, u32 *n, struct process *p) { QUERY(d); (void) p; *n = 0; return SUCCESS; }
struct sample { u32 pid; u64 time_us; u32 sm, memory, encoder, decoder; };
int nvmlDeviceGetProcessUtilization(dev d, struct sample *s, u32 *n, u64 since)
{
	QUERY(d); (void) since;
	if (g.mig || !g.npids) return g.mig ? NOT_SUPPORTED : NOT_FOUND;
	if (!s || *n < (u32) g.npids) { *n = g.npids; return TOO_SMALL; }
	for (int k = 0; k < g.npids; k++) s[k] = (struct sample) {g.pids[k], clock_ns(CLOCK_REALTIME) / 1000, 80u / g.npids, 20, 0, 0};
	*n = g.npids;
	return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(dev d, u32 *gpu_mem) { QUERY(d); if (g.mig) return NOT_SUPPORTED; gpu_mem[0] = g.npids ? 87 : 0; gpu_mem[1] = g.npids ? 40 : 0; return SUCCESS; }
int nvmlDeviceGetMemoryInfo(dev d, u64 *m) { QUERY(d); m[0] = 80ull << 30; m[2] = (u64) g.npids << 30; m[1] = m[0] - m[2]; return SUCCESS; }

/* --- MIG */
#ifndef OLD_DRIVER
int nvmlDeviceGetMigMode(dev d, u32 *current, u32 *pending) { QUERY(d); NOT_FOR_MIG(d); *current = *pending = g.mig > 0; return SUCCESS; }
int nvmlDeviceGetMaxMigDeviceCount(dev d, u32 *n) { QUERY(d); *n = MAX_MIG; return SUCCESS; }
int nvmlDeviceIsMigDeviceHandle(dev d, u32 *yes) { QUERY(d); *yes = is_mig(d); return SUCCESS; }
int nvmlDeviceGetMigDeviceHandleByIndex(dev d, u32 i, dev *m) { QUERY(d); if (i >= (u32) g.mig) return NOT_FOUND; *m = handle_of(gpu_of(d), i + 1); return SUCCESS; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(dev m, dev *d) { QUERY(m); if (!is_mig(m)) return INVALID; *d = handle_of(gpu_of(m), 0); return SUCCESS; }
int nvmlDeviceGetGpuInstanceId(dev d, u32 *i) { QUERY(d); if (!is_mig(d)) return NOT_SUPPORTED; *i = instance_of(d); return SUCCESS; }
int nvmlDeviceGetComputeInstanceId(dev d, u32 *i) { QUERY(d); if (!is_mig(d)) return NOT_SUPPORTED; *i = 0; return SUCCESS; }
struct attributes { u32 sms, copy, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices; u64 memory_mb; };
int nvmlDeviceGetAttributes_v2(dev d, struct attributes *a)
{
	QUERY(d);
	if (!is_mig(d)) return NOT_SUPPORTED;
	*a = (struct attributes) {.sms = 16, .copy = 1, .gpu_slices = 1, .compute_slices = 1, .memory_mb = 9856};
	return SUCCESS;
}
#endif
