/* Preloaded into every process of a host: makes fsync fail and the wall clock jump, as a page of memory says that the
 * suite shares with it (a file named by CHAOS_HOST_CONTROL). Monotonic clocks are never touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    _Atomic int64_t wall_offset_ns; /* added to CLOCK_REALTIME */
    _Atomic int32_t sync_errno;     /* what fsync and fdatasync fail with; 0: they work */
    _Atomic int32_t sync_failed;    /* how many did */
    char pattern[240];              /* only for files whose path holds this */
};

static struct control none;
static struct control *control = &none;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_HOST_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) control = page;
}

static int refused(int fd) {
    int error = atomic_load(&control->sync_errno);
    if (error == 0) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (strstr(path, control->pattern) == NULL) return 0;
    atomic_fetch_add(&control->sync_failed, 1);
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int fd) { return refused(fd) ? -1 : REAL(fsync)(fd); }

int fdatasync(int fd) { return refused(fd) ? -1 : REAL(fdatasync)(fd); }

static void shift(struct timespec *t) {
    int64_t offset = atomic_load(&control->wall_offset_ns);
    if (offset == 0) return;
    int64_t ns = t->tv_nsec + offset % 1000000000;
    t->tv_sec += offset / 1000000000;
    if (ns < 0) { ns += 1000000000; t->tv_sec--; }
    if (ns >= 1000000000) { ns -= 1000000000; t->tv_sec++; }
    t->tv_nsec = ns;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    static _Atomic(__typeof__(&clock_gettime)) real;
    if (!atomic_load(&real)) atomic_store(&real, REAL(clock_gettime));
    int result = atomic_load(&real)(clock, t);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(t);
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    if (result == 0) { t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; }
    return result;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
