/* lostpages: an LD_PRELOAD shim that models a machine which, at a crash, loses every byte that no completed
 * fsync or fdatasync covered. See README.md beside this file for the model, the switches and the limits.
 *
 * Model. Durable content belongs to an inode and lives in LOSTPAGES_SHADOW.inodes/<ino>; durable names are hard
 * links to it under LOSTPAGES_SHADOW. A file sync copies the inode's dirty ranges and length; a directory sync makes
 * the shadow directory list what the real one lists now. So rename, unlink and mkdir need no hook of their own.
 * Every hook calls the kernel directly (syscall), so nothing in here can re-enter a hook. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_BYTES (PATH_MAX + 64)
#define BUCKETS 1024
#define COPY_BYTES (256 * 1024)
#define EXPORT __attribute__((visibility("default")))

struct range { off_t start, end; };
struct inode {
    ino_t ino;
    pthread_mutex_t dirty_lock; /* the four fields below */
    struct range *dirty;
    size_t dirty_len, dirty_cap;
    off_t smallest_size; /* since the last sync: what a truncation in between has cut off */
    pthread_mutex_t sync_lock; /* one sync of an inode at a time */
    struct inode *next;
};

static char root[PATH_BYTES], shadow[PATH_BYTES], store[PATH_BYTES];
static dev_t root_dev;
static int active;
static struct inode *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER, names_lock = PTHREAD_MUTEX_INITIALIZER;

static void die(const char *what, const char *path) {
    dprintf(2, "lostpages: %s %s: %s\n", what, path, strerror(errno));
    abort();
}
static void join(char *out, const char *dir, const char *name) {
    if (snprintf(out, PATH_BYTES, "%s/%s", dir, name) >= PATH_BYTES) { errno = ENAMETOOLONG; die("path", dir); }
}
static void stored(char *out, const char *kind, ino_t ino) {
    char name[32];
    snprintf(name, sizeof name, "%s%lu", kind, (unsigned long)ino);
    join(out, store, name);
}
static int raw_open(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644);
}
static int switched_on(const char *variable) {
    const char *path = getenv(variable);
    return path && *path && access(path, F_OK) == 0;
}
/* The path below the data directory that fd stands for ("" for the directory itself); 0 when it is elsewhere. */
static int below_root(int fd, char *relative) {
    char link[64], path[PATH_BYTES];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    size_t root_len = strlen(root);
    if (n < (ssize_t)root_len) return 0;
    path[n] = 0;
    if (strncmp(path, root, root_len) || (path[root_len] && path[root_len] != '/')) return 0;
    strcpy(relative, path[root_len] ? path + root_len + 1 : "");
    return 1;
}
static struct inode *inode_of(ino_t ino) {
    pthread_mutex_lock(&table_lock);
    struct inode *i = table[ino % BUCKETS];
    while (i && i->ino != ino) i = i->next;
    if (!i) {
        if (!(i = calloc(1, sizeof *i))) die("memory", "");
        i->ino = ino;
        i->smallest_size = LLONG_MAX;
        pthread_mutex_init(&i->dirty_lock, NULL);
        pthread_mutex_init(&i->sync_lock, NULL);
        i->next = table[ino % BUCKETS];
        table[ino % BUCKETS] = i;
    }
    pthread_mutex_unlock(&table_lock);
    return i;
}
/* The inode behind fd when it is a regular file under the data directory; otherwise NULL. */
static struct inode *tracked(int fd) {
    struct stat st;
    char relative[PATH_BYTES];
    int saved = errno;
    struct inode *i = NULL;
    if (active && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_dev == root_dev && below_root(fd, relative))
        i = inode_of(st.st_ino);
    errno = saved;
    return i;
}
static void mark(struct inode *i, off_t start, off_t end) { /* dirty_lock held */
    if (end <= start) return;
    struct range *last = i->dirty_len ? &i->dirty[i->dirty_len - 1] : NULL;
    if (last && start <= last->end && end >= last->start) {
        if (start < last->start) last->start = start;
        if (end > last->end) last->end = end;
        return;
    }
    if (i->dirty_len == i->dirty_cap) {
        i->dirty_cap = i->dirty_cap ? i->dirty_cap * 2 : 16;
        if (!(i->dirty = realloc(i->dirty, i->dirty_cap * sizeof *i->dirty))) die("memory", "");
    }
    i->dirty[i->dirty_len++] = (struct range){start, end};
}
static void copy_range(int from, int to, off_t start, off_t end) {
    static __thread char buffer[COPY_BYTES];
    static const char zeros[4096];
    while (start < end) {
        size_t want = end - start < COPY_BYTES ? (size_t)(end - start) : COPY_BYTES;
        ssize_t got = syscall(SYS_pread64, from, buffer, want, start);
        if (got < 0) die("read for", shadow);
        if (got == 0) return;
        /* Zeros over what the shadow never had stay a hole: segments are zero-filled ahead. */
        struct stat st;
        int past_end = !fstat(to, &st) && start >= st.st_size;
        for (ssize_t at = 0; at < got; at += 4096) {
            size_t n = got - at < 4096 ? (size_t)(got - at) : 4096;
            if (past_end && !memcmp(buffer + at, zeros, n)) continue;
            if (syscall(SYS_pwrite64, to, buffer + at, n, start + at) != (ssize_t)n) die("write to", store);
        }
        start += got;
    }
}
static int injected_sync_failure(void) {
    while (switched_on("LOSTPAGES_HANG_FILE")) usleep(5000);
    if (!switched_on("LOSTPAGES_FAIL_SYNC")) return 0;
    errno = EIO;
    return -1;
}
static int sync_file(int fd, struct inode *i, long call) {
    struct stat st;
    char path[PATH_BYTES], link[64];
    pthread_mutex_lock(&i->sync_lock);
    pthread_mutex_lock(&i->dirty_lock); /* what was written before the sync began, and nothing later */
    struct range *dirty = i->dirty;
    size_t dirty_len = i->dirty_len;
    off_t smallest = i->smallest_size;
    i->dirty = NULL;
    i->dirty_len = i->dirty_cap = 0;
    i->smallest_size = LLONG_MAX;
    if (fstat(fd, &st)) die("fstat", store);
    pthread_mutex_unlock(&i->dirty_lock);
    int rc = injected_sync_failure();
    if (!rc && call) rc = (int)syscall(call, fd);
    int saved = errno;
    if (!rc) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd); /* fd itself may be write-only */
        stored(path, "", i->ino);
        int from = raw_open(link, O_RDONLY), to = raw_open(path, O_RDWR | O_CREAT);
        if (from < 0 || to < 0) die("open", path);
        struct stat old;
        if (!fstat(to, &old) && smallest < old.st_size && syscall(SYS_ftruncate, to, smallest)) die("cut", path);
        for (size_t n = 0; n < dirty_len; n++)
            copy_range(from, to, dirty[n].start, dirty[n].end < st.st_size ? dirty[n].end : st.st_size);
        if (syscall(SYS_ftruncate, to, st.st_size)) die("size of", path);
        close(from);
        close(to);
    } else { /* as Linux does: the pages count as clean now, a later sync does not bring them back */
        pthread_mutex_lock(&i->dirty_lock);
        if (smallest < i->smallest_size) i->smallest_size = smallest;
        pthread_mutex_unlock(&i->dirty_lock);
    }
    free(dirty);
    pthread_mutex_unlock(&i->sync_lock);
    errno = saved;
    return rc;
}
static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}
/* Where the durable listing of directory `relative` is kept: its shadow once its own name is durable, else aside. */
static void listing_of(const char *relative, char *out) {
    char real[PATH_BYTES], parent[PATH_BYTES];
    struct stat st;
    if (!*relative) { strcpy(out, shadow); return; }
    snprintf(parent, sizeof parent, "%s", relative);
    char *slash = strrchr(parent, '/');
    const char *name = slash ? relative + (slash - parent) + 1 : relative;
    *(slash ? slash : parent) = 0;
    listing_of(parent, real);
    join(out, real, name);
    if (!access(out, F_OK)) return;
    join(real, root, relative);
    if (stat(real, &st)) die("stat", real);
    stored(out, "d", st.st_ino);
    if (mkdir(out, 0755) && errno != EEXIST) die("mkdir", out);
}
static void publish_entry(const char *real_path, const char *durable_path) {
    char content[PATH_BYTES], temporary[PATH_BYTES];
    struct stat real, kept, now;
    if (lstat(real_path, &real)) return; /* gone meanwhile: not in the listing either */
    int exists = !lstat(durable_path, &now);
    if (S_ISDIR(real.st_mode)) {
        if (exists && S_ISDIR(now.st_mode)) return;
        if (exists) unlink(durable_path);
        stored(content, "d", real.st_ino);
        if (rename(content, durable_path) && mkdir(durable_path, 0755)) die("mkdir", durable_path);
    } else if (S_ISREG(real.st_mode)) {
        stored(content, "", real.st_ino);
        if (stat(content, &kept)) { /* made by means the shim does not see: durable name, no durable byte */
            close(raw_open(content, O_RDWR | O_CREAT));
            if (stat(content, &kept)) die("create", content);
        }
        if (exists && now.st_ino == kept.st_ino) return;
        join(temporary, store, "new-name");
        unlink(temporary);
        if (link(content, temporary) || rename(temporary, durable_path)) die("link", durable_path);
    }
}
static int sync_directory(int fd, const char *relative, long call) {
    char real[PATH_BYTES], durable[PATH_BYTES], from[PATH_BYTES], to[PATH_BYTES];
    struct dirent *entry;
    struct stat st;
    int rc = injected_sync_failure();
    if (rc || (rc = (int)syscall(call, fd))) return rc;
    pthread_mutex_lock(&names_lock);
    if (*relative) join(real, root, relative); else strcpy(real, root);
    listing_of(relative, durable);
    for (int pass = 0; pass < 2; pass++) { /* first what is new, then what is gone: a rename never shows neither name */
        DIR *dir = opendir(pass ? durable : real);
        if (!dir) die("list", pass ? durable : real);
        while ((entry = readdir(dir))) {
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            join(from, real, entry->d_name);
            join(to, durable, entry->d_name);
            if (!pass) publish_entry(from, to);
            else if (lstat(from, &st)) nftw(to, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        }
        closedir(dir);
    }
    pthread_mutex_unlock(&names_lock);
    return 0;
}
static int sync_any(int fd, long call) {
    struct stat st;
    char relative[PATH_BYTES];
    if (!active || fstat(fd, &st) || !below_root(fd, relative)) return (int)syscall(call, fd);
    if (S_ISDIR(st.st_mode)) return sync_directory(fd, relative, call);
    return S_ISREG(st.st_mode) ? sync_file(fd, inode_of(st.st_ino), call) : (int)syscall(call, fd);
}
EXPORT int fsync(int fd) { return sync_any(fd, SYS_fsync); }
EXPORT int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* Opening: a created file gets fresh, empty durable content (inode numbers are reused); O_TRUNC cuts to nothing. */
static int open_any(int dir, const char *path, int flags, mode_t mode) {
    /* A directory sync in another thread must not meet a new file before its durable content is there. */
    int creates = active && flags & O_CREAT;
    if (creates) pthread_mutex_lock(&names_lock);
    int existed = faccessat(dir, path, F_OK, 0) == 0;
    int fd = (int)syscall(SYS_openat, dir, path, flags, mode);
    if (fd >= 0 && creates && !existed && switched_on("LOSTPAGES_FULL") && tracked(fd)) {
        close(fd);
        unlinkat(dir, path, 0);
        pthread_mutex_unlock(&names_lock);
        errno = ENOSPC;
        return -1;
    }
    struct inode *i = fd >= 0 && flags & (O_CREAT | O_TRUNC) ? tracked(fd) : NULL;
    int saved = errno;
    if (!i) {
        if (creates) pthread_mutex_unlock(&names_lock);
        errno = saved;
        return fd;
    }
    pthread_mutex_lock(&i->dirty_lock);
    if ((flags & O_CREAT && !existed) || (flags & O_TMPFILE) == O_TMPFILE) {
        char content[PATH_BYTES];
        stored(content, "", i->ino);
        unlink(content);
        close(raw_open(content, O_RDWR | O_CREAT | O_EXCL));
        i->dirty_len = 0;
        i->smallest_size = LLONG_MAX;
    } else if (flags & O_TRUNC) i->smallest_size = 0;
    pthread_mutex_unlock(&i->dirty_lock);
    if (creates) pthread_mutex_unlock(&names_lock);
    errno = saved;
    return fd;
}
#define MODE_ARGUMENT(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
EXPORT int open(const char *path, int flags, ...) { MODE_ARGUMENT(flags, m) return open_any(AT_FDCWD, path, flags, m); }
EXPORT int open64(const char *path, int flags, ...) { MODE_ARGUMENT(flags, m) return open_any(AT_FDCWD, path, flags, m); }
EXPORT int openat(int d, const char *path, int flags, ...) { MODE_ARGUMENT(flags, m) return open_any(d, path, flags, m); }
EXPORT int openat64(int d, const char *path, int flags, ...) { MODE_ARGUMENT(flags, m) return open_any(d, path, flags, m); }
EXPORT int creat(const char *path, mode_t m) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, m); }
EXPORT int creat64(const char *path, mode_t m) { return creat(path, m); }

/* Does a write of `len` bytes need more space than the file has, on a disk that is full? */
static int needs_space(int fd, off_t offset, size_t len) {
    struct stat st;
    if (!switched_on("LOSTPAGES_FULL") || fstat(fd, &st)) return 0;
    off_t at = offset >= 0 ? offset : fcntl(fd, F_GETFL) & O_APPEND ? st.st_size : lseek(fd, 0, SEEK_CUR);
    return at + (off_t)len > st.st_size;
}
static size_t bytes_of(const struct iovec *v, int n) {
    size_t sum = 0;
    while (n-- > 0) sum += v[n].iov_len;
    return sum;
}

/* A full disk has no room for a directory either. */
EXPORT int mkdir(const char *path, mode_t mode) {
    char here[PATH_BYTES] = "";
    if (*path != '/' && !getcwd(here, sizeof here)) return -1;
    const char *where = *path == '/' ? path : here;
    int inside = active && !strncmp(where, root, strlen(root));
    if (inside && access(path, F_OK) && switched_on("LOSTPAGES_FULL")) { errno = ENOSPC; return -1; }
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

/* Writing. `offset` < 0 means the file position. O_SYNC, O_DSYNC and RWF_DSYNC make the write its own sync. */
#define WRITE(fd, offset, len, synced, call) do { \
    struct inode *i = tracked(fd); \
    if (!i) return call; \
    if (needs_space(fd, offset, len)) { errno = ENOSPC; return -1; } \
    pthread_mutex_lock(&i->dirty_lock); \
    ssize_t done = call; \
    int saved = errno; \
    if (done > 0) { \
        off_t at = (offset) >= 0 ? (off_t)(offset) : lseek(fd, 0, SEEK_CUR) - done; \
        mark(i, at, at + done); \
    } \
    pthread_mutex_unlock(&i->dirty_lock); \
    if (done > 0 && ((synced) || fcntl(fd, F_GETFL) & O_DSYNC) && sync_file(fd, i, 0)) return -1; \
    errno = saved; \
    return done; } while (0)
EXPORT ssize_t write(int fd, const void *b, size_t n) { WRITE(fd, -1, n, 0, syscall(SYS_write, fd, b, n)); }
EXPORT ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { WRITE(fd, o, n, 0, syscall(SYS_pwrite64, fd, b, n, o)); }
EXPORT ssize_t pwrite64(int fd, const void *b, size_t n, off_t o) { WRITE(fd, o, n, 0, syscall(SYS_pwrite64, fd, b, n, o)); }
EXPORT ssize_t writev(int fd, const struct iovec *v, int n) { WRITE(fd, -1, bytes_of(v, n), 0, syscall(SYS_writev, fd, v, n)); }
EXPORT ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) {
    WRITE(fd, o, bytes_of(v, n), 0, syscall(SYS_pwritev, fd, v, n, o, 0L));
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t o) { return pwritev(fd, v, n, o); }
EXPORT ssize_t pwritev2(int fd, const struct iovec *v, int n, off_t o, int f) {
    WRITE(fd, o, bytes_of(v, n), f & (RWF_DSYNC | RWF_SYNC), syscall(SYS_pwritev2, fd, v, n, o, 0L, f));
}
EXPORT ssize_t pwritev64v2(int fd, const struct iovec *v, int n, off_t o, int f) { return pwritev2(fd, v, n, o, f); }
EXPORT ssize_t sendfile(int fd, int in, off_t *o, size_t n) { WRITE(fd, -1, n, 0, syscall(SYS_sendfile, fd, in, o, n)); }
EXPORT ssize_t sendfile64(int fd, int in, off_t *o, size_t n) { return sendfile(fd, in, o, n); }
EXPORT ssize_t copy_file_range(int in, off_t *io, int fd, off_t *oo, size_t n, unsigned f) {
    off_t before = oo ? *oo : -1;
    WRITE(fd, before, n, 0, syscall(SYS_copy_file_range, in, io, fd, oo, n, f));
}

/* Sizes. Truncation and preallocation are as volatile as bytes. */
EXPORT int ftruncate(int fd, off_t size) {
    struct inode *i = tracked(fd);
    if (!i) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&i->dirty_lock);
    int rc = (int)syscall(SYS_ftruncate, fd, size);
    if (!rc && size < i->smallest_size) i->smallest_size = size;
    pthread_mutex_unlock(&i->dirty_lock);
    return rc;
}
EXPORT int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }
EXPORT int fallocate(int fd, int mode, off_t offset, off_t len) {
    struct inode *i = tracked(fd);
    if (i && switched_on("LOSTPAGES_FULL")) { errno = ENOSPC; return -1; }
    int rc = (int)syscall(SYS_fallocate, fd, mode, offset, len);
    if (i && !rc && mode & ~FALLOC_FL_KEEP_SIZE) { /* punched, zeroed, moved: everything from here may differ */
        pthread_mutex_lock(&i->dirty_lock);
        mark(i, offset, LLONG_MAX);
        pthread_mutex_unlock(&i->dirty_lock);
    }
    return rc;
}
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t len) { return fallocate(fd, mode, offset, len); }
EXPORT int posix_fallocate(int fd, off_t offset, off_t len) {
    int saved = errno, rc = fallocate(fd, 0, offset, len) ? errno : 0;
    errno = saved;
    return rc;
}
EXPORT int posix_fallocate64(int fd, off_t offset, off_t len) { return posix_fallocate(fd, offset, len); }

/* What is in the data directory at the first start counts as durable. */
static int import_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    char content[PATH_BYTES], name[PATH_BYTES];
    (void)ftw;
    const char *relative = path + strlen(root);
    snprintf(name, sizeof name, "%s%s", shadow, relative);
    if (type == FTW_D) return *relative && mkdir(name, 0755) && errno != EEXIST ? -1 : 0;
    if (!S_ISREG(st->st_mode)) return 0;
    stored(content, "", st->st_ino);
    int from = raw_open(path, O_RDONLY), to = raw_open(content, O_RDWR | O_CREAT | O_EXCL);
    if (from < 0 || to < 0) return -1;
    copy_range(from, to, 0, st->st_size);
    int rc = (int)syscall(SYS_ftruncate, to, st->st_size) || link(content, name) ? -1 : 0;
    close(from);
    close(to);
    return rc;
}
__attribute__((constructor)) static void start(void) {
    const char *dir = getenv("LOSTPAGES_DIR"), *copy = getenv("LOSTPAGES_SHADOW");
    struct stat st;
    if (!dir || !*dir || !copy || !*copy) return;
    mkdir(dir, 0755);
    if (!realpath(dir, root) || stat(root, &st)) die("LOSTPAGES_DIR", dir);
    root_dev = st.st_dev;
    int fresh = mkdir(copy, 0755) == 0;
    if (!realpath(copy, shadow)) die("LOSTPAGES_SHADOW", copy);
    if (snprintf(store, sizeof store, "%s.inodes", shadow) >= (int)sizeof store) die("path", shadow);
    if (mkdir(store, 0755) && errno != EEXIST) die("mkdir", store);
    if (fresh && nftw(root, import_entry, 16, FTW_PHYS)) die("import of", root);
    active = 1;
}
