/* A disk that fails to order, for LD_PRELOAD. What it does comes from the environment, which
 * shim_arm() reads again:
 *
 *   SHIM_BELOW   only paths that contain this are touched or logged
 *   SHIM_LOG     file that gets a line a call: operation, path, and the new path of a rename or link
 *   SHIM_OP      open write fsync syncdir rename link unlink mkdir, or any
 *   SHIM_NAME    only paths that contain this too
 *   SHIM_NTH     the n-th such call, from 1
 *   SHIM_REPEAT  if set, all later ones too
 *   SHIM_EFFECT  EIO, ENOSPC, short (half of a write is written), before, after (_exit(137))
 *   SHIM_CLOCK   file with seconds that are added to the time of day
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum effect { PASS, FAIL, SHORT, AFTER };

static char below[4096], name[256], op[16], effect[16], clock_file[4096];
static long nth;
static int repeat, log_fd = -1;
static atomic_long seen;

static void take(char *to, size_t size, const char *variable) {
    const char *value = getenv(variable);
    snprintf(to, size, "%s", value ? value : "");
}

__attribute__((constructor)) void shim_arm(void) {
    char log[4096], number[32];
    take(below, sizeof below, "SHIM_BELOW");
    take(name, sizeof name, "SHIM_NAME");
    take(op, sizeof op, "SHIM_OP");
    take(effect, sizeof effect, "SHIM_EFFECT");
    take(clock_file, sizeof clock_file, "SHIM_CLOCK");
    take(log, sizeof log, "SHIM_LOG");
    take(number, sizeof number, "SHIM_NTH");
    nth = atol(number);
    repeat = getenv("SHIM_REPEAT") != NULL;
    atomic_store(&seen, 0);
    log_fd = *log ? (int)syscall(SYS_openat, AT_FDCWD, log,
                                 O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)
                  : -1;
}

static void die(void) { syscall(SYS_exit_group, 137); }

static enum effect decide(const char *call, const char *path, const char *other) {
    if (!*below || !path || !strstr(path, below)) return PASS;
    if (log_fd >= 0) {
        char line[9000];
        int size = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, path, other);
        if (syscall(SYS_write, log_fd, line, size) != size) die();
    }
    if (strcmp(op, "any") != 0 && strcmp(op, call) != 0) return PASS;
    if (*name && !strstr(path, name)) return PASS;
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (number != nth && !(repeat && number > nth)) return PASS;
    if (strcmp(effect, "before") == 0) die();
    if (strcmp(effect, "after") == 0) return AFTER;
    if (strcmp(effect, "short") == 0) return SHORT;
    errno = strcmp(effect, "ENOSPC") == 0 ? ENOSPC : EIO;
    return FAIL;
}

static enum effect decide_fd(const char *call, int fd) {
    char link[64], path[4096];
    if (!*below || fd < 3 || fd == log_fd) return PASS;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long size = syscall(SYS_readlink, link, path, sizeof path - 1);
    if (size < 0) return PASS;
    path[size] = 0;
    return decide(call, path, "");
}

#define REAL(type, function, ...)                                        \
    static type (*real)(__VA_ARGS__);                                    \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, function)

#define GIVE(type, decision, call)                                       \
    switch (decision) {                                                  \
        case FAIL: return -1;                                            \
        case AFTER: { call; die(); return -1; }                          \
        default: return (type)(call);                                    \
    }

/* Only what may write is of interest. */
#define OPEN(function)                                                   \
    int function(const char *path, int flags, ...) {                     \
        REAL(int, #function, const char *, int, ...);                    \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                    \
        enum effect d = flags & (O_WRONLY | O_RDWR) ? decide("open", path, "") : PASS; \
        GIVE(int, d, real(path, flags, mode))                            \
    }
OPEN(open)
OPEN(open64)

#define WRITE(function, parameters, arguments, half, ...)                \
    ssize_t function parameters {                                        \
        REAL(ssize_t, #function, __VA_ARGS__);                           \
        enum effect d = decide_fd("write", fd);                          \
        if (d == SHORT && size > 1) return real half;                    \
        GIVE(ssize_t, d, real arguments)                                 \
    }
WRITE(write, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2), int,
      const void *, size_t)
WRITE(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at),
      (fd, data, size / 2, at), int, const void *, size_t, off_t)
WRITE(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at),
      (fd, data, size / 2, at), int, const void *, size_t, off64_t)

#define FSYNC(function)                                                  \
    int function(int fd) {                                               \
        REAL(int, #function, int);                                       \
        struct stat status;                                              \
        int folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode); \
        enum effect d = decide_fd(folder ? "syncdir" : "fsync", fd);     \
        GIVE(int, d, real(fd))                                           \
    }
FSYNC(fsync)
FSYNC(fdatasync)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    enum effect d = decide("rename", from, to);
    GIVE(int, d, real(from, to))
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    enum effect d = decide("link", from, to);
    GIVE(int, d, real(from, to))
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    enum effect d = decide("unlink", path, "");
    GIVE(int, d, real(path))
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    enum effect d = decide("mkdir", path, "");
    GIVE(int, d, real(path, mode))
}

static long clock_offset_s(void) {
    char text[32] = "";
    if (!*clock_file) return 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, clock_file, O_RDONLY, 0);
    if (fd < 0) return 0;
    syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return atol(text);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int answer = real(id, now);
    if (answer == 0 && id == CLOCK_REALTIME) now->tv_sec += clock_offset_s();
    return answer;
}

int gettimeofday(struct timeval *now, void *zone) {
    REAL(int, "gettimeofday", struct timeval *, void *);
    int answer = real(now, zone);
    if (answer == 0) now->tv_sec += clock_offset_s();
    return answer;
}
