/*
 * The disk workload: blocks of 64 KiB, each a header (magic, index, version) and a pattern, written past the page cache, and read back
 * and verified all the time. Version 0 means never written. Versions survive a reboot: they are read from the disk.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = BLOCK / 8, HEADER_WORDS = 3 };

static int disk;
static uint64_t base, block_count;
static uint64_t *versions;

static bool transfer(bool write, uint64_t *block, uint64_t index)
{
    off_t at = (off_t)(base + index * BLOCK);
    ssize_t n = write ? pwrite(disk, block, BLOCK, at) : pread(disk, block, BLOCK, at);
    if (n == BLOCK)
        return true;
    say("MISMATCH disk block=%llu: %s failed: %s", (unsigned long long)index, write ? "write" : "read", strerror(errno));
    atomic_fetch_add(&counters.disk_mismatches, 1);
    return false;
}

static void check(uint64_t *block, uint64_t index)
{
    if (!transfer(false, block, index))
        return;
    atomic_fetch_add(&counters.block_checks, 1);
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t want = pattern_word(index, versions[index], i);
        if (i < HEADER_WORDS)
            want = i == 0 ? BLOCK_MAGIC : i == 1 ? index : versions[index];
        if (block[i] == want)
            continue;
        say("MISMATCH disk block=%llu version=%llu word=%llu got=%016llx want=%016llx", (unsigned long long)index,
            (unsigned long long)versions[index], (unsigned long long)i, (unsigned long long)block[i], (unsigned long long)want);
        atomic_fetch_add(&counters.disk_mismatches, 1);
        versions[index] = 0; /* unknown until it is written again */
        return;
    }
}

static void rewrite(uint64_t *block, uint64_t index, uint64_t version)
{
    for (uint64_t i = HEADER_WORDS; i < WORDS; i++)
        block[i] = pattern_word(index, version, i);
    block[0] = BLOCK_MAGIC;
    block[1] = index;
    block[2] = version;
    if (transfer(true, block, index))
        versions[index] = version;
    atomic_fetch_add(&counters.block_writes, 1);
}

static bool open_region(void)
{
    char value[128], path[64];
    unsigned offset_mib, mib;
    if (!setting("blocks", value, sizeof value))
        return false;
    if (sscanf(value, "%63[^:]:%u:%u", path, &offset_mib, &mib) != 3) {
        say("vmport.blocks=%s is not PATH:OFFSET_MIB:MIB", value);
        return false;
    }
    disk = open(path, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
    if (disk < 0) {
        say("%s: %s", path, strerror(errno));
        return false;
    }
    base = (uint64_t)offset_mib * MIB;
    block_count = (uint64_t)mib * MIB / BLOCK;
    return true;
}

void *disk_writer(void *unused)
{
    (void)unused;
    uint64_t *block;
    if (!open_region() || posix_memalign((void **)&block, PAGE, BLOCK) != 0)
        return NULL;
    versions = calloc(block_count, sizeof *versions);
    uint64_t highest = 0;
    for (uint64_t index = 0; index < block_count; index++)
        if (transfer(false, block, index) && block[0] == BLOCK_MAGIC && block[1] == index) {
            versions[index] = block[2];
            highest = block[2] > highest ? block[2] : highest;
        }
    long rate = setting_number("blocks_s", 4);
    say("disk writer: %llu blocks of 64 KiB, %ld rewrites/s", (unsigned long long)block_count, rate);
    uint64_t seed = 2463534242u + highest, written = 0;
    for (int64_t start = now_ns();; pace(start, ++written, rate)) {
        atomic_store(&disk_idle, atomic_load(&disk_paused));
        if (atomic_load(&disk_paused))
            continue;
        seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
        rewrite(block, seed % block_count, ++highest);
        uint64_t other = (seed >> 32) % block_count;
        if (versions[other] != 0)
            check(block, other);
    }
}
