/*
 * guestd's settings, its UDP echo (port 7), and its reports: one line of JSON per command line, on TCP port 7070 and on the console.
 * Every port takes IPv4 and IPv6.
 *
 * Commands: report, disk-sha256, pause-disk, resume-disk, freeze, thaw; efi-read NAME, efi-write NAME HEX, tpm HEX, sha256 DEVICE MIB,
 * fill DEVICE MIB.  Workloads and devices are in files of their own.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { ECHO_PORT = 7, REPORT_PORT = 7070, THAW_AFTER_S = 1800 };
static const char commands[] = "report disk-sha256 pause-disk resume-disk freeze thaw efi-read efi-write tpm sha256 fill";

struct counters counters;
atomic_bool disk_paused, disk_idle;
static char workload[32] = "idle";
static atomic_llong frozen_since_ns;

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void pace(int64_t start_ns, uint64_t done, long per_second)
{
    int64_t due = start_ns + (int64_t)(done * (1000000000.0 / (double)(per_second > 0 ? per_second : 1)));
    int64_t left = due - now_ns();
    if (left > 0) {
        struct timespec wait = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        nanosleep(&wait, NULL);
    }
}

void say(const char *format, ...)
{
    char line[512];
    int n = snprintf(line, sizeof line, "guestd: ");
    va_list arguments;
    va_start(arguments, format);
    n += vsnprintf(line + n, sizeof line - (size_t)n - 2, format, arguments);
    va_end(arguments);
    if (n > (int)sizeof line - 2)
        n = (int)sizeof line - 2;
    line[n++] = '\n';
    /* One write per line, so that threads do not mix theirs; a console that is gone is no reason to stop. */
    if (write(STDOUT_FILENO, line, (size_t)n) < 0)
        return;
}

static size_t slurp(const char *path, char *text, size_t size)
{
    int handle = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = handle < 0 ? 0 : read(handle, text, size - 1);
    if (handle >= 0)
        close(handle);
    n = n < 0 ? 0 : n;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    return (size_t)n;
}

bool setting(const char *name, char *value, size_t size)
{
    char line[4096], *rest = NULL;
    slurp("/proc/cmdline", line, sizeof line);
    size_t length = strlen(name);
    for (char *word = strtok_r(line, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        if (strncmp(word, "vmport.", 7) == 0 && strncmp(word + 7, name, length) == 0 && word[7 + length] == '=') {
            snprintf(value, size, "%s", word + 8 + length);
            return true;
        }
    return false;
}

long setting_number(const char *name, long otherwise)
{
    char value[32];
    return setting(name, value, sizeof value) ? strtol(value, NULL, 10) : otherwise;
}

void start_thread(void *(*body)(void *), const char *what)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, NULL) != 0) {
        say("cannot start %s", what);
        exit(1);
    }
    pthread_detach(thread);
}

static unsigned long long read_counter(atomic_ullong *counter)
{
    return atomic_load(counter);
}

static void report(char *answer)
{
    char boot_id[64], uptime[64], uuid[64], mac[32];
    slurp("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
    slurp("/proc/uptime", uptime, sizeof uptime);
    slurp("/sys/class/dmi/id/product_uuid", uuid, sizeof uuid);
    slurp("/sys/class/net/eth0/address", mac, sizeof mac);
    struct counters *c = &counters;
    unsigned long long memory = read_counter(&c->memory_mismatches), disk = read_counter(&c->disk_mismatches);
    unsigned long long service = read_counter(&c->service_mismatches);
    snprintf(answer, ANSWER_BYTES,
             "{\"boot_id\":\"%s\",\"uptime_s\":%.2f,\"uuid\":\"%s\",\"mac\":\"%s\",\"workload\":\"%s\",\"passes\":%llu,"
             "\"page_writes\":%llu,\"page_checks\":%llu,\"block_writes\":%llu,\"block_checks\":%llu,\"service_requests\":%llu,"
             "\"memory_mismatches\":%llu,\"disk_mismatches\":%llu,\"service_mismatches\":%llu,\"mismatches\":%llu,"
             "\"disk_paused\":%s,\"frozen\":%s}",
             boot_id, strtod(uptime, NULL), uuid, mac, workload, read_counter(&c->passes), read_counter(&c->page_writes),
             read_counter(&c->page_checks), read_counter(&c->block_writes), read_counter(&c->block_checks),
             read_counter(&c->service_requests), memory, disk, service, memory + disk + service,
             atomic_load(&disk_paused) ? "true" : "false", atomic_load(&frozen_since_ns) ? "true" : "false");
}

static void disk_sha256(char *answer)
{
    char value[128], path[64], hex[65];
    unsigned mib;
    if (!setting("static", value, sizeof value) || sscanf(value, "%63[^:]:%u", path, &mib) != 2)
        snprintf(answer, ANSWER_BYTES, "{\"error\":\"this guest has no vmport.static=PATH:MIB\"}");
    else if (!file_sha256(path, (uint64_t)mib * MIB, hex))
        snprintf(answer, ANSWER_BYTES, "{\"error\":\"cannot read %u MiB of %s\"}", mib, path);
    else
        snprintf(answer, ANSWER_BYTES, "{\"disk_sha256\":\"%s\",\"bytes\":%llu}", hex, (unsigned long long)mib * MIB);
}

static void pause_disk(bool pause, char *answer)
{
    bool writes = strcmp(workload, "writer") == 0 || strcmp(workload, "build") == 0;
    atomic_store(&disk_paused, pause);
    for (int i = 0; writes && i < 500 && atomic_load(&disk_idle) != pause; i++)
        usleep(10000);
    bool reached = !writes || atomic_load(&disk_idle) == pause;
    snprintf(answer, ANSWER_BYTES, reached ? "{\"ok\":true}" : "{\"error\":\"the disk writer did not stop in 5 s\"}");
}

/* Hold the root file system still (all of it written out), so that its image can be compared while the guest runs. */
static void freeze(bool on, char *answer)
{
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result = root < 0 ? -1 : ioctl(root, on ? FIFREEZE : FITHAW, 0);
    int error = errno;
    if (root >= 0)
        close(root);
    if (result < 0 && error != EOPNOTSUPP && error != EBUSY && error != EINVAL) {
        snprintf(answer, ANSWER_BYTES, "{\"error\":\"%s: %s\"}", on ? "freeze" : "thaw", strerror(error));
        return;
    }
    atomic_store(&frozen_since_ns, on && result == 0 ? now_ns() : 0);
    /* An initramfs has nothing on the disk to freeze: that is as good. */
    snprintf(answer, ANSWER_BYTES, "{\"ok\":true,\"frozen\":%s}", on && result == 0 ? "true" : "false");
}

/* A command with words behind it; false if it is none. Cuts the command into its words. */
static bool answer_about_devices(char *command, char *answer)
{
    char *rest = NULL;
    const char *verb = strtok_r(command, " ", &rest), *first = strtok_r(NULL, " ", &rest), *second = strtok_r(NULL, " ", &rest);
    if (!verb || !first)
        return false;
    if (strcmp(verb, "efi-read") == 0)
        efi_read(first, answer);
    else if (strcmp(verb, "tpm") == 0)
        tpm_command(first, answer);
    else if (!second)
        return false;
    else if (strcmp(verb, "efi-write") == 0)
        efi_write(first, second, answer);
    else if (strcmp(verb, "sha256") == 0)
        device_sha256(first, (unsigned)strtoul(second, NULL, 10), answer);
    else if (strcmp(verb, "fill") == 0)
        device_fill(first, (unsigned)strtoul(second, NULL, 10), answer);
    else
        return false;
    return true;
}

static void answer_to(char *command, char *answer)
{
    if (strcmp(command, "report") == 0)
        report(answer);
    else if (strcmp(command, "disk-sha256") == 0)
        disk_sha256(answer);
    else if (strcmp(command, "pause-disk") == 0 || strcmp(command, "resume-disk") == 0)
        pause_disk(command[0] == 'p', answer);
    else if (strcmp(command, "freeze") == 0 || strcmp(command, "thaw") == 0)
        freeze(command[0] == 'f', answer);
    else if (!answer_about_devices(command, answer))
        snprintf(answer, ANSWER_BYTES, "{\"error\":\"commands: %s\"}", commands);
    strncat(answer, "\n", 2);
}

int listen_on(int kind, uint16_t port)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int handle = socket(AF_INET6, kind | SOCK_CLOEXEC, 0), yes = 1, no = 0;
    setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(handle, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(handle, (struct sockaddr *)&address, sizeof address) < 0 || (kind == SOCK_STREAM && listen(handle, 64) < 0)) {
        say("port %u: %s", port, strerror(errno));
        exit(1);
    }
    return handle;
}

static void *echo_server(void *unused)
{
    (void)unused;
    static char packet[65536];
    int handle = listen_on(SOCK_DGRAM, ECHO_PORT);
    for (;;) {
        struct sockaddr_in6 from;
        socklen_t size = sizeof from;
        ssize_t n = recvfrom(handle, packet, sizeof packet, 0, (struct sockaddr *)&from, &size);
        if (n >= 0)
            sendto(handle, packet, (size_t)n, 0, (struct sockaddr *)&from, size);
    }
    return NULL;
}

static size_t read_command(int connection, char *command, size_t size)
{
    size_t got = 0;
    for (ssize_t n = 1; n > 0 && got < size - 1 && !memchr(command, '\n', got); got += n > 0 ? (size_t)n : 0)
        n = recv(connection, command + got, size - 1 - got, 0);
    command[got] = '\0';
    command[strcspn(command, "\r\n")] = '\0';
    return got;
}

static void *report_server(void *unused)
{
    (void)unused;
    int handle = listen_on(SOCK_STREAM, REPORT_PORT);
    for (;;) {
        int connection = accept4(handle, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0)
            continue;
        struct timeval bound = {.tv_sec = 5};
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
        char command[COMMAND_BYTES], answer[ANSWER_BYTES + 2];
        if (read_command(connection, command, sizeof command) > 0) {
            answer_to(command, answer);
            send(connection, answer, strlen(answer), MSG_NOSIGNAL);
        }
        close(connection);
    }
    return NULL;
}

static void *console_server(void *unused)
{
    (void)unused;
    char line[COMMAND_BYTES], answer[ANSWER_BYTES + 2];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0] == '\0')
            continue;
        answer_to(line, answer);
        if (write(STDOUT_FILENO, answer, strlen(answer)) < 0)
            break;
    }
    return NULL;
}

static void thaw_if_forgotten(void)
{
    int64_t since = atomic_load(&frozen_since_ns);
    char answer[ANSWER_BYTES];
    if (since && now_ns() - since > (int64_t)THAW_AFTER_S * 1000000000) {
        say("frozen for %d s: thawing", THAW_AFTER_S);
        freeze(false, answer);
    }
}

int main(void)
{
    setting("workload", workload, sizeof workload);
    start_thread(echo_server, "the echo server");
    start_thread(report_server, "the report server");
    start_thread(connection_server, "the connection server");
    start_thread(console_server, "the console");
    if (strcmp(workload, "writer") == 0) {
        start_thread(memory_writer, "the memory writer");
        start_thread(disk_writer, "the disk writer");
    } else if (strcmp(workload, "web") == 0) {
        start_thread(web_client, "the web client");
    } else if (strcmp(workload, "redis") == 0) {
        start_thread(redis_client, "the redis client");
    } else if (strcmp(workload, "build") == 0) {
        start_thread(build_workload, "the build");
    } else if (strcmp(workload, "idle") != 0) {
        say("unknown workload %s", workload);
    }
    say("ready, workload %s", workload);
    for (;;) {
        sleep(5);
        thaw_if_forgotten();
    }
}
