/* Counts a program's calls of its allocator: LD_PRELOAD, Linux, glibc. The 64-bit count is the first
 * word of the file MALLOCS_FILE, which must exist and have at least 8 bytes. See README.md. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static _Atomic uint64_t before_main;
static _Atomic uint64_t *count = &before_main;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("MALLOCS_FILE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) count = mapped;
}

void *malloc(size_t size) {
    ++*count;
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    ++*count;
    return __libc_calloc(number, size);
}

void *realloc(void *at, size_t size) {
    ++*count;
    return __libc_realloc(at, size);
}

int posix_memalign(void **at, size_t alignment, size_t size) {
    ++*count;
    *at = __libc_memalign(alignment, size);
    return *at ? 0 : 12; /* ENOMEM */
}

void *aligned_alloc(size_t alignment, size_t size) {
    ++*count;
    return __libc_memalign(alignment, size);
}
