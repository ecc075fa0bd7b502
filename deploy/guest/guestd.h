/*
 * guestd: what a lab guest runs to prove that it is still itself: it echoes, reports, and keeps verifying its own memory and disk.
 *
 * Everything is set on the kernel's command line (vmport.NAME=VALUE), so that one image serves every guest.
 */
#ifndef GUESTD_H
#define GUESTD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096, BLOCK = 65536, MIB = 1 << 20 };
enum { COMMAND_BYTES = 4096, ANSWER_BYTES = 4096 }; /* one line each, with its end */
#define BLOCK_MAGIC UINT64_C(0x31304b4c42504d56) /* "VMPBLK01" */
#define OBJECT_MAGIC UINT64_C(0x31304a424f504d56) /* "VMPOBJ01" */

/* Counters that reports show; each has one writing thread. */
struct counters {
    atomic_ullong passes, page_writes, page_checks, memory_mismatches;
    atomic_ullong block_writes, block_checks, disk_mismatches;
    atomic_ullong service_requests, service_mismatches;
};
extern struct counters counters;
extern atomic_bool disk_paused, disk_idle;

/* A setting from the kernel's command line; false if it is not there. */
bool setting(const char *name, char *value, size_t size);
long setting_number(const char *name, long otherwise);

/* One line on the console, prefixed "guestd: ". */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Sleep so that `done` events since `start_ns` keep to `per_second`. */
void pace(int64_t start_ns, uint64_t done, long per_second);
int64_t now_ns(void);

/*
 * The i-th 64-bit word of version `version` of unit `unit`. Any word tells which unit and version it belongs to, and neighbours look
 * random to a compressor. deploy/labkit/disk_compare.py computes the same.
 */
static inline uint64_t pattern_word(uint64_t unit, uint64_t version, uint64_t i)
{
    uint64_t x = unit * UINT64_C(0xbf58476d1ce4e5b9) + version * UINT64_C(0x94d049bb133111eb) + i;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 29);
}

void start_thread(void *(*body)(void *), const char *what);

/* A socket on this port of every address, IPv4 and IPv6; ends guestd where it is taken. */
int listen_on(int kind, uint16_t port);

void *connection_server(void *);
void *memory_writer(void *);
void *disk_writer(void *);
void *web_client(void *);
void *redis_client(void *);
void *build_workload(void *);

/*
 * Commands about devices; each writes one line of JSON.  A variable's name is NAME-GUID as efivarfs has it; `hex` are bytes as
 * hexadecimal digits.  `device_fill` writes a pattern over the first MiBs of a device.
 */
void efi_read(const char *name, char *answer);
void efi_write(const char *name, const char *hex, char *answer);
void tpm_command(const char *hex, char *answer);
void device_sha256(const char *path, unsigned mib, char *answer);
void device_fill(const char *path, unsigned mib, char *answer);

/* SHA-256 of the first `bytes` of a file or device, read past the page cache; false if it cannot be read. */
bool file_sha256(const char *path, uint64_t bytes, char hex[65]);

#endif
