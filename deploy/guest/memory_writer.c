/*
 * The memory workload: versioned pages, each with a shadow copy elsewhere and its version in a third place.
 *
 * A rewrite changes one of a page's eight stripes, in the page and then in its shadow. A page that was lost, doubled or torn in a
 * migration differs from its shadow, from its version, or from both.
 */
#include "guestd.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { STRIPES = 8, STRIPE_WORDS = PAGE / 8 / STRIPES, CHECKS_PER_ROUND = 40, ROUND_MS = 20 };

static uint64_t *pages, *shadows;
static uint64_t *versions;
static uint64_t page_count;

static uint64_t *page_of(uint64_t *base, uint64_t index)
{
    return base + index * (PAGE / 8);
}

/* Version that last wrote a stripe, when the page is at `version`. Version 0 wrote all of them. */
static uint64_t stripe_version(uint64_t version, uint64_t stripe)
{
    uint64_t behind = (version - stripe) % STRIPES;
    return version >= behind ? version - behind : 0;
}

static void write_stripe(uint64_t *page, uint64_t index, uint64_t version, uint64_t stripe)
{
    uint64_t *words = page + stripe * STRIPE_WORDS;
    for (uint64_t i = 0; i < STRIPE_WORDS; i++)
        words[i] = pattern_word(index, version, stripe * STRIPE_WORDS + i);
}

static void rewrite(uint64_t index)
{
    uint64_t version = ++versions[index];
    write_stripe(page_of(pages, index), index, version, version % STRIPES);
    write_stripe(page_of(shadows, index), index, version, version % STRIPES);
    atomic_fetch_add(&counters.page_writes, 1);
}

/* Say what is wrong, count it once, and put it right so that it is not counted again. */
static void complain(const char *copy, uint64_t *page, uint64_t index, uint64_t word, uint64_t want)
{
    say("MISMATCH memory %s page=%llu version=%llu word=%llu got=%016llx want=%016llx", copy, (unsigned long long)index,
        (unsigned long long)versions[index], (unsigned long long)word, (unsigned long long)page[word], (unsigned long long)want);
    atomic_fetch_add(&counters.memory_mismatches, 1);
    for (uint64_t stripe = 0; stripe < STRIPES; stripe++)
        write_stripe(page, index, stripe_version(versions[index], stripe), stripe);
}

static void check_copy(const char *copy, uint64_t *page, uint64_t index)
{
    for (uint64_t stripe = 0; stripe < STRIPES; stripe++) {
        uint64_t version = stripe_version(versions[index], stripe);
        for (uint64_t i = stripe * STRIPE_WORDS; i < (stripe + 1) * STRIPE_WORDS; i++) {
            uint64_t want = pattern_word(index, version, i);
            if (page[i] != want) {
                complain(copy, page, index, i, want);
                return;
            }
        }
    }
}

static void check(uint64_t index)
{
    check_copy("page", page_of(pages, index), index);
    if (memcmp(page_of(pages, index), page_of(shadows, index), PAGE) != 0)
        check_copy("shadow", page_of(shadows, index), index);
    atomic_fetch_add(&counters.page_checks, 1);
}

static void *region(uint64_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        say("no memory for %llu MiB of pages", (unsigned long long)(bytes / MIB));
        exit(1);
    }
    return memory;
}

void *memory_writer(void *unused)
{
    (void)unused;
    long rate = setting_number("pages_s", 500);
    page_count = (uint64_t)setting_number("region_mib", 64) * MIB / PAGE / 2;
    uint64_t hot = (uint64_t)setting_number("hot_mib", 8) * MIB / PAGE / 2;
    if (hot > page_count)
        hot = page_count;
    pages = region(page_count * PAGE);
    shadows = region(page_count * PAGE);
    versions = region(page_count * sizeof *versions);
    for (uint64_t index = 0; index < page_count; index++)
        for (uint64_t stripe = 0; stripe < STRIPES; stripe++) {
            write_stripe(page_of(pages, index), index, 0, stripe);
            write_stripe(page_of(shadows, index), index, 0, stripe);
        }
    say("memory writer: %llu pages with shadows, %llu of them hot, %ld rewrites/s", (unsigned long long)page_count,
        (unsigned long long)hot, rate);
    uint64_t seed = 88172645463325252u, next = 0, written = 0;
    int64_t start = now_ns();
    for (uint64_t round = 1;; round++) {
        for (uint64_t due = round * (uint64_t)rate * ROUND_MS / 1000; written < due; written++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            rewrite(seed % hot);
            check(seed % hot);
        }
        for (int i = 0; i < CHECKS_PER_ROUND; i++) {
            check(next);
            if (++next == page_count) {
                next = 0;
                atomic_fetch_add(&counters.passes, 1);
            }
        }
        pace(start, round, 1000 / ROUND_MS);
    }
}
