/* LD_PRELOAD for slurmd and slurmstepd on a machine that has cgroup v1 and v2 mounted side by side.
 *
 * Slurm's cgroup/v2 plugin refuses to start where /proc/PID/cgroup lists any v1 hierarchy ("Hybrid mode is not
 * supported"). This shows it the "0::" line of that file alone; the cgroups are real. It does not reach jobs or hooks:
 * Slurm gives them an environment of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is_proc_cgroup(const char *path)
{
    size_t n = path ? strlen(path) : 0;
    return n > 13 && !strncmp(path, "/proc/", 6) && !strcmp(path + n - 7, "/cgroup");
}

/* A file in memory that holds the "0::" line of PATH. */
static int open_unified(const char *path, int flags)
{
    char text[8192], *save, *line;
    int copy, fd = syscall(SYS_openat, AT_FDCWD, path, flags, 0);
    if (fd < 0) return fd;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    if ((copy = memfd_create("cgroup", MFD_CLOEXEC)) < 0) return copy;
    for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!strncmp(line, "0::", 3)) dprintf(copy, "%s\n", line);
    lseek(copy, 0, SEEK_SET);
    return copy;
}

#define OPEN(name) int name(const char *path, int flags, ...) \
{ \
    int mode = 0; \
    va_list a; \
    if (flags & (O_CREAT | O_TMPFILE)) { va_start(a, flags); mode = va_arg(a, int); va_end(a); } \
    return is_proc_cgroup(path) ? open_unified(path, flags) : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode); \
}
OPEN(open)
OPEN(open64)

FILE *fopen(const char *path, const char *mode)
{
    static FILE *(*real)(const char *, const char *);
    if (is_proc_cgroup(path)) {
        int fd = open_unified(path, O_RDONLY);
        return fd < 0 ? NULL : fdopen(fd, "r");
    }
    if (!real) real = (FILE *(*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen");
    return real(path, mode);
}
