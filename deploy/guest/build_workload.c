/*
 * The build workload: a mix of file reads and writes as compiling a large program makes it. A step reads a few files of the system as
 * sources, whose contents must never change, and writes an object file by rename; now and then a link step reads many objects back.
 *
 * Object files consist of 4 KiB blocks, each a header (magic, file, version, block number) and a pattern, so that whoever finds one,
 * in the guest or in an image of its disk, can tell whether it is whole. deploy/labkit/file_compare.py checks the same.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SOURCES_MAX = 4096,
    SOURCE_BYTES_MAX = 256 * 1024,
    READS_PER_STEP = 4,
    OBJECTS = 512,
    OBJECT_BLOCKS_MIN = 4,
    OBJECT_BLOCKS_SPREAD = 21,
    STEPS_PER_LINK = 32,
    OBJECTS_PER_LINK = 24,
    BLOCK_WORDS = PAGE / 8,
    HEADER_WORDS = 4
};
static const char directory[] = "/var/lib/guestd/build";

struct source {
    char *path;
    uint64_t hash; /* 0: not read yet */
};
static struct source sources[SOURCES_MAX];
static unsigned source_count;
static uint64_t versions[OBJECTS];

static uint64_t next_random(void)
{
    static uint64_t seed = 1181783497276652981u;
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return seed;
}

static void mismatch(const char *path, const char *what)
{
    say("MISMATCH build %s: %s", path, what);
    atomic_fetch_add(&counters.disk_mismatches, 1);
}

static int note_source(const char *path, const struct stat *facts, int kind, struct FTW *where)
{
    (void)where;
    if (kind == FTW_F && S_ISREG(facts->st_mode) && facts->st_size > 512 && facts->st_size <= SOURCE_BYTES_MAX)
        if ((sources[source_count].path = strdup(path)) != NULL)
            source_count++;
    return source_count == SOURCES_MAX;
}

static void read_source(struct source *source)
{
    static unsigned char text[SOURCE_BYTES_MAX + 1];
    int handle = open(source->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = handle < 0 ? -1 : read(handle, text, sizeof text);
    if (handle >= 0)
        close(handle);
    if (n < 0) {
        mismatch(source->path, strerror(errno));
        return;
    }
    uint64_t hash = 14695981039346656037u;
    for (ssize_t i = 0; i < n; i++)
        hash = (hash ^ text[i]) * 1099511628211u;
    if (source->hash && source->hash != hash)
        mismatch(source->path, "a file that nobody writes came back changed");
    source->hash = hash;
    atomic_fetch_add(&counters.block_checks, 1);
}

static unsigned blocks_of(unsigned object, uint64_t version)
{
    return OBJECT_BLOCKS_MIN + (unsigned)((object * 7 + version * 5) % OBJECT_BLOCKS_SPREAD);
}

static void fill_block(uint64_t *block, unsigned object, uint64_t version, unsigned number)
{
    block[0] = OBJECT_MAGIC;
    block[1] = object;
    block[2] = version;
    block[3] = number;
    for (unsigned i = HEADER_WORDS; i < BLOCK_WORDS; i++)
        block[i] = pattern_word(object, version, number * BLOCK_WORDS + i);
}

static void object_path(unsigned object, char *path, size_t size)
{
    snprintf(path, size, "%s/%04u.o", directory, object);
}

static void compile(unsigned object)
{
    uint64_t block[BLOCK_WORDS], version = versions[object] + 1;
    char path[96], draft[96];
    object_path(object, path, sizeof path);
    snprintf(draft, sizeof draft, "%s/draft", directory);
    int handle = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool whole = handle >= 0;
    for (unsigned number = 0; whole && number < blocks_of(object, version); number++) {
        fill_block(block, object, version, number);
        whole = write(handle, block, PAGE) == PAGE;
    }
    if (handle >= 0 && close(handle) < 0)
        whole = false;
    if (!whole || rename(draft, path) < 0) {
        mismatch(path, strerror(errno));
        return;
    }
    versions[object] = version;
    atomic_fetch_add(&counters.block_writes, 1);
}

static void check_object(unsigned object)
{
    uint64_t got[BLOCK_WORDS], want[BLOCK_WORDS], version = versions[object];
    char path[96];
    object_path(object, path, sizeof path);
    int handle = open(path, O_RDONLY | O_CLOEXEC);
    bool whole = handle >= 0;
    for (unsigned number = 0; whole && number < blocks_of(object, version); number++) {
        fill_block(want, object, version, number);
        whole = read(handle, got, PAGE) == PAGE && memcmp(got, want, PAGE) == 0;
    }
    if (handle >= 0)
        close(handle);
    if (!whole)
        mismatch(path, "an object file is not what was written");
    atomic_fetch_add(&counters.block_checks, 1);
}

static void link_objects(void)
{
    for (unsigned i = 0; i < OBJECTS_PER_LINK; i++) {
        unsigned object = (unsigned)(next_random() % OBJECTS);
        if (versions[object] != 0)
            check_object(object);
    }
    atomic_fetch_add(&counters.passes, 1);
}

void *build_workload(void *unused)
{
    (void)unused;
    if (mkdir(directory, 0755) < 0 && errno != EEXIST) {
        say("%s: %s", directory, strerror(errno));
        return NULL;
    }
    static const char *const roots[] = {"/usr/share", "/usr/lib"};
    for (unsigned i = 0; i < sizeof roots / sizeof roots[0] && source_count < SOURCES_MAX; i++)
        nftw(roots[i], note_source, 16, FTW_PHYS | FTW_MOUNT);
    long rate = setting_number("steps_s", 8);
    say("build: %u sources, %d objects, %ld steps/s", source_count, OBJECTS, rate);
    uint64_t done = 0;
    for (int64_t start = now_ns(); source_count > 0; pace(start, ++done, rate)) {
        atomic_store(&disk_idle, atomic_load(&disk_paused));
        if (atomic_load(&disk_paused))
            continue;
        for (int i = 0; i < READS_PER_STEP; i++)
            read_source(&sources[next_random() % source_count]);
        compile((unsigned)(next_random() % OBJECTS));
        if (done % STEPS_PER_LINK == STEPS_PER_LINK - 1)
            link_objects();
    }
    return NULL;
}
