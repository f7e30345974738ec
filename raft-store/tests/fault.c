/* A disk that fails, for one process: writes and flushes of files below $FAULT_DIR, by LD_PRELOAD.
 *
 * FAULT_FSYNC=n   the n-th fsync or fdatasync fails with EIO, that one alone: the kernel forgets such an error too.
 * FAULT_ROOM=n    after n bytes the disk is full: what fits is written, then ENOSPC.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long flushes, written;

static int ours(int fd) {
    const char *dir = getenv("FAULT_DIR");
    char link[64], path[4096];
    if (!dir) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && (size_t)length >= strlen(dir) && !strncmp(path, dir, strlen(dir));
}

static int flush(int fd, const char *name) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *nth = getenv("FAULT_FSYNC");
    if (nth && ours(fd) && atomic_fetch_add(&flushes, 1) + 1 == atol(nth)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return flush(fd, "fsync"); }
int fdatasync(int fd) { return flush(fd, "fdatasync"); }

/* How much of `count` still fits; -1 with ENOSPC when nothing does. */
static ssize_t room(int fd, size_t count) {
    const char *room = getenv("FAULT_ROOM");
    if (!room || !count || !ours(fd)) return (ssize_t)count;
    long before = atomic_fetch_add(&written, (long)count);
    long left = atol(room) - before;
    if (left >= (long)count) return (ssize_t)count;
    if (left > 0) return left;
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    ssize_t fits = room(fd, count);
    return fits < 0 ? -1 : real(fd, bytes, (size_t)fits);
}

static ssize_t at(int fd, const void *bytes, size_t count, off_t offset, const char *name) {
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    ssize_t fits = room(fd, count);
    return fits < 0 ? -1 : real(fd, bytes, (size_t)fits, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return at(fd, bytes, count, offset, "pwrite"); }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    return at(fd, bytes, count, offset, "pwrite64");
}
