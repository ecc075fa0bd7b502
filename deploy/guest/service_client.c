/*
 * The web and redis workloads: clients of the guest's own nginx and redis, which verify every answer.
 */
#define _GNU_SOURCE
#include "guestd.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWER_MAX = 65536, VALUE_BYTES = 1024, KEYS = 4096 };

static int connect_local(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval bound = {.tv_sec = 10};
    int handle = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    if (connect(handle, (struct sockaddr *)&address, sizeof address) == 0)
        return handle;
    close(handle);
    return -1;
}

static void failed(const char *service, const char *what)
{
    say("MISMATCH %s: %s", service, what);
    atomic_fetch_add(&counters.service_mismatches, 1);
}

/* The service may take its time to start, once. */
static int connect_first(const char *service, uint16_t port)
{
    for (int tries = 0; tries < 1200; tries++) {
        int handle = connect_local(port);
        if (handle >= 0)
            return handle;
        usleep(100000);
    }
    say("%s does not listen on port %u", service, port);
    return -1;
}

static ssize_t fetch(char *answer)
{
    static const char request[] = "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n";
    int handle = connect_local(80);
    if (handle < 0)
        return -1;
    ssize_t got = 0, n = send(handle, request, sizeof request - 1, MSG_NOSIGNAL);
    while (n > 0 && got < ANSWER_MAX - 1) {
        n = recv(handle, answer + got, (size_t)(ANSWER_MAX - 1 - got), 0);
        if (n > 0)
            got += n;
    }
    close(handle);
    answer[got] = '\0';
    char *body = strstr(answer, "\r\n\r\n");
    if (n < 0 || !body || strncmp(answer + 8, " 200", 4) != 0)
        return -1;
    size_t length = strlen(body + 4);
    memmove(answer, body + 4, length + 1);
    return (ssize_t)length;
}

void *web_client(void *unused)
{
    (void)unused;
    static char first[ANSWER_MAX], answer[ANSWER_MAX];
    int handle = connect_first("nginx", 80);
    if (handle < 0)
        return NULL;
    close(handle);
    if (fetch(first) < 0)
        failed("web", "the first request was not answered with 200");
    uint64_t done = 0;
    for (int64_t start = now_ns();; pace(start, ++done, setting_number("requests_s", 50))) {
        if (fetch(answer) < 0)
            failed("web", "a request was not answered with 200");
        else if (strcmp(first, answer) != 0)
            failed("web", "a page came back changed");
        atomic_fetch_add(&counters.service_requests, 1);
    }
}

static bool receive(int handle, char *buffer, size_t bytes)
{
    for (size_t got = 0; got < bytes;) {
        ssize_t n = recv(handle, buffer + got, bytes - got, 0);
        if (n <= 0)
            return false;
        got += (size_t)n;
    }
    return true;
}

static void fill_value(char *value, uint64_t key, uint64_t version)
{
    for (uint64_t i = 0; i < VALUE_BYTES / 16; i++)
        snprintf(value + i * 16, 17, "%016llx", (unsigned long long)pattern_word(key, version, i));
}

void *redis_client(void *unused)
{
    (void)unused;
    static uint64_t versions[KEYS];
    char want[VALUE_BYTES + 1], got[VALUE_BYTES + 32], request[VALUE_BYTES + 128];
    int handle = connect_first("redis", 6379);
    uint64_t done = 0;
    for (int64_t start = now_ns(); handle >= 0; pace(start, ++done, setting_number("requests_s", 50))) {
        uint64_t key = done * 2654435761u % KEYS, other = (key * 7 + done) % KEYS;
        fill_value(want, key, ++versions[key]);
        int n = snprintf(request, sizeof request, "*3\r\n$3\r\nSET\r\n$5\r\nk%04u\r\n$%d\r\n%s\r\n", (unsigned)key, VALUE_BYTES, want);
        bool alive = send(handle, request, (size_t)n, MSG_NOSIGNAL) == n && receive(handle, got, 5);
        if (alive && memcmp(got, "+OK\r\n", 5) != 0)
            failed("redis", "SET was refused");
        atomic_fetch_add(&counters.service_requests, 1);
        if (alive && versions[other] != 0) {
            fill_value(want, other, versions[other]);
            n = snprintf(request, sizeof request, "*2\r\n$3\r\nGET\r\n$5\r\nk%04u\r\n", (unsigned)other);
            alive = send(handle, request, (size_t)n, MSG_NOSIGNAL) == n && receive(handle, got, 7 + VALUE_BYTES + 2);
            if (alive && memcmp(got + 7, want, VALUE_BYTES) != 0)
                failed("redis", "a value came back changed");
            atomic_fetch_add(&counters.service_requests, 1);
        }
        if (!alive) {
            failed("redis", "the connection was lost");
            close(handle);
            handle = connect_first("redis", 6379);
        }
    }
    return NULL;
}
